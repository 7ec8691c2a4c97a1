"""The report in a browser: accessible, no sideways scrolling on a phone, no errors, printable."""

import importlib.util
import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.chromium import CHROMIUM, browser
from tests.report.test_report import photos, run  # noqa: F401 - fixtures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium"),
]

WIDTHS = (320, 768, 1280)

#: What Tab has to reach: what scrolls is no link, but holds what can't be seen otherwise.
REACHED = "a[href], summary, [tabindex='0']"

#: Describes the focused element, and says whether its focus is visible.
FOCUSED = """(() => {
  const e = document.activeElement, box = e.getBoundingClientRect();
  const style = getComputedStyle(e);
  return {
    number: [...document.querySelectorAll("%s")].indexOf(e),
    outlined: style.outlineStyle != 'none' && parseFloat(style.outlineWidth) >= 1,
    inside: box.bottom > 0 && box.top < innerHeight && box.width > 0,
  };
})()"""


#: Contrast (WCAG 2) of the cells of confusion matrices: axe-core 4.4 can't parse mixed colours.
CONTRASTS = """(() => {
  const one = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const context = one.getContext('2d', {willReadFrequently: true});
  const luminance = (colour) => {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map(
      (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const paper = getComputedStyle(document.body).backgroundColor;
  return [...document.querySelectorAll('.matrix tbody td')].map((cell) => {
    const style = getComputedStyle(cell);
    const back = style.backgroundColor == 'rgba(0, 0, 0, 0)' ? paper : style.backgroundColor;
    const both = [luminance(style.color), luminance(back)];
    return Math.max(...both) / Math.min(...both);
  });
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_every_width_and_logs_nothing(tab, run, tmp_path, width, dark):  # noqa: F811
    tab.logged.clear()
    tab.open(run / "report.html", width=width, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") <= width
    shot = tmp_path / f"report-{width}-{'dark' if dark else 'light'}.png"
    shot.write_bytes(tab.screenshot())
    pixels = np.asarray(Image.open(io.BytesIO(shot.read_bytes())).convert("L"))
    assert pixels.shape[1] == width
    # The paper, and ink on it.
    assert (np.median(pixels) < 128) == dark
    assert pixels.std() > 5
    assert not tab.logged


@pytest.mark.parametrize("width", [WIDTHS[0], WIDTHS[-1]])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_to_object(tab, run, width, dark):  # noqa: F811
    package = importlib.util.find_spec("axe_core_python")
    if package is None or package.origin is None:
        pytest.skip("needs axe-core-python")
    axe = Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    tab.open(run / "report.html", width=width, dark=dark)
    tab.run("document.querySelector('details').open = true")
    tab.run(f"{axe}; 0")
    found = tab.run("axe.run({exclude: [['.matrix tbody td']]})")
    passed = {rule["id"] for rule in found["passes"]}
    assert {"color-contrast", "image-alt", "svg-img-alt"} <= passed
    problems = [
        (rule["id"], [node["html"][:200] for node in rule["nodes"][:3]])
        for rule in found["violations"]
    ]
    assert not problems
    contrasts = tab.run(CONTRASTS)
    assert contrasts
    assert min(contrasts) >= 4.5


def test_every_link_and_what_scrolls_is_reached_by_tab_and_seen(tab, run):  # noqa: F811
    tab.open(run / "report.html", width=WIDTHS[0], height=700)
    count = tab.run(f'document.querySelectorAll("{REACHED}").length')
    # What is closed is not reached.
    hidden = tab.run("document.querySelectorAll('details:not([open]) [tabindex]').length")
    reached = []
    for _ in range(count - hidden):
        tab.press("Tab", 9)
        focused = tab.run(FOCUSED % REACHED)
        assert focused["outlined"]
        assert focused["inside"]
        reached.append(focused["number"])
    assert len(set(reached)) == count - hidden
    assert -1 not in reached
    assert reached == sorted(reached)


def test_it_is_printed(run, tmp_path):  # noqa: F811
    printed = tmp_path / "report.pdf"
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={printed}"]
    subprocess.run(
        [CHROMIUM, *arguments, Path(run / "report.html").as_uri()],
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert printed.read_bytes().startswith(b"%PDF")
