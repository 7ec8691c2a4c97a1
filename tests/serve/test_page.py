"""The page of a service in a browser: real uploads, keyboard, phone, dark, accessible."""

import base64
import importlib.util
from pathlib import Path

import pytest

from tests.report.chromium import CHROMIUM, browser
from tests.serve.process import served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium"),
]

#: Waits for the answer to an image: the heading, or the error.
ANSWER = """new Promise((done, fail) => {
  const seen = () => {
    const label = document.getElementById('label'), error = document.getElementById('error');
    if (!error.hidden) return done(error.textContent);
    if (!document.getElementById('result').hidden) return done(label.textContent);
    setTimeout(seen, 20);
  };
  setTimeout(() => fail(new Error('no answer')), 60000);
  seen();
})"""

#: A paste, or a drop, of a file.
TRANSFER = """(() => {
  const bytes = Uint8Array.from(atob('%s'), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], 'photo.png', {type: 'image/png'}));
  document.getElementById('result').hidden = true;
  const made = '%s' == 'paste' ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true})
    : new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true});
  document.getElementById('drop').dispatchEvent(made);
})()"""


@pytest.fixture(scope="module")
def url(run):
    with served(run.path) as (_, found):
        yield found


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def photo(split_photos):
    return split_photos / "val" / "red" / "0.png"


def expected(run, photo):
    (prediction,) = run.predict(photo)
    return f"{prediction.label}, {prediction.probability:.1%}"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (320, True)])
def test_an_uploaded_image_is_classified(tab, url, run, photo, tmp_path, width, dark):
    tab.logged.clear()
    tab.open(url, width=width, dark=dark)
    tab.upload("#file", photo)
    assert tab.run(ANSWER) == expected(run, photo)
    assert tab.run("document.querySelectorAll('#top tr').length") == 3
    (prediction,) = run.predict(photo)
    hidden = tab.run("document.getElementById('unfamiliar').hidden")
    assert hidden == (prediction.familiar is not False)
    for image in ("image", "heatmap"):
        loaded = f"document.getElementById('{image}').decode().then(() => true)"
        assert tab.run(loaded)
    assert tab.run("document.documentElement.scrollWidth") <= width
    (tmp_path / "page.png").write_bytes(tab.screenshot())
    assert not tab.logged


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_an_image_is_pasted_or_dropped(tab, url, run, photo, way):
    tab.open(url)
    tab.run(TRANSFER % (base64.b64encode(photo.read_bytes()).decode(), way))
    assert tab.run(ANSWER) == expected(run, photo)


def test_what_is_no_image_is_told(tab, url, run, photo, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    tab.open(url)
    tab.upload("#file", tmp_path / "text.png")
    assert "unreadable" in tab.run(ANSWER)
    assert tab.run("document.getElementById('result').hidden")
    tab.upload("#file", photo)
    tab.run("new Promise((done) => setTimeout(done, 50))")
    assert tab.run(ANSWER) == expected(run, photo)


def test_it_is_used_by_keyboard(tab, url):
    tab.open(url, width=320)
    reached = []
    for _ in range(2):
        tab.press("Tab", 9)
        reached.append(tab.run("document.activeElement.id"))
        outlined = "getComputedStyle(document.activeElement.parentElement).outlineStyle"
        assert tab.run(outlined) != "none"
    assert reached == ["file", "camera"]
    assert tab.run("document.getElementById('camera').getAttribute('capture')") == "environment"


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_to_object(tab, url, photo, dark):
    package = importlib.util.find_spec("axe_core_python")
    if package is None or package.origin is None:
        pytest.skip("needs axe-core-python")
    axe = Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    tab.open(url, width=320, dark=dark)
    tab.upload("#file", photo)
    tab.run(ANSWER)
    # Every part that an answer may have.
    tab.run("document.querySelectorAll('.mark').forEach((mark) => { mark.hidden = false; })")
    tab.run(f"{axe}; 0")
    found = tab.run("axe.run()")
    assert {"color-contrast", "image-alt", "label"} <= {rule["id"] for rule in found["passes"]}
    problems = [
        (rule["id"], [node["html"][:200] for node in rule["nodes"][:3]])
        for rule in found["violations"]
    ]
    assert not problems
