"""The report of a run: complete, harmless, readable, the same each time."""

import html
import platform
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from tests.conftest import QUICK, zoo_
from tests.pipeline.conftest import hear
from zoo.data.sources import open_source
from zoo.data.split import read_splits
from zoo.errors import RunError
from zoo.events import Note, ignore
from zoo.report import build
from zoo.runs.scores import read_columns

HOSTILE = ("<script>alert(1)<", "\"' onload=x", "$x_1$ & co")

#: Elements without an end tag.
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for each, attrs in self.elements if each == tag]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Images of classes whose names are hostile, with a test split."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6), ("test", 5)):
        for n, name in enumerate(HOSTILE):
            place = folder / split / name.replace("/", "")
            place.mkdir(parents=True)
            for k, letter in enumerate("abcdefghijkl"[:count]):
                pixels = random.integers(0, 90, (40, 40, 3), dtype=np.uint8)
                pixels[..., n] += 40 * (k % 3)
                Image.fromarray(pixels).save(place / f"<b>{k}<b> $a_{letter}$.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    """A run of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "run"
    zoo.finetune(photos, out=out, **{**QUICK, "epochs": 2})
    return out


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_it_runs_nothing_and_loads_nothing(page):
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "iframe", "link", "object", "embed", "form", "base"}
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("href", "xlink:href"):
            assert attrs.get(name, "#").startswith("#")
        assert attrs.get("src", "data:image/webp;base64,").startswith("data:image/webp;base64,")
        assert not re.findall(r"url\((?!#)", attrs.get("style") or "")


def test_names_are_shown_as_they_are(page):
    text = "".join(page.text)
    for name in HOSTILE:
        assert name in text
    assert "<b>0<b> $a_a$.png" in text
    assert any("$a_" in attrs["alt"] for attrs in page.all("img"))


def test_links_lead_to_parts_of_the_page_and_ids_are_unique(page):
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    referred = {
        attrs[key][1:]
        for _, attrs in page.elements
        for key in ("href", "xlink:href")
        if key in attrs
    }
    referred |= {attrs["aria-labelledby"] for attrs in page.all("section")}
    assert referred <= set(ids)


def test_headings_are_in_order_and_pictures_have_a_text(page):
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.all("img")
    assert all(attrs["alt"] for attrs in page.all("img"))
    plots = [attrs for attrs in page.all("svg") if attrs.get("class") == "plot"]
    # Reliability, coverage, learning curves.
    assert len(plots) == 4
    assert all(attrs["aria-label"] for attrs in plots)
    assert all(attrs["scope"] for attrs in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("meta")[2]["content"] == "width=device-width, initial-scale=1"


def test_test_images_come_first(page):
    cards = [text for text in page.text if re.fullmatch(r"accuracy on (test|val)", text)]
    assert cards == ["accuracy on test", "accuracy on val"]


def test_it_is_the_same_when_it_is_written_again(run, tmp_path):
    again = tmp_path / "again.html"
    assert zoo.write_report(run, output=again, device="cpu") == again
    assert again.read_bytes() == (run / "report.html").read_bytes()


def test_a_run_and_its_report_are_verified(run, tmp_path):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    states = {found.file: found.state for found in zoo.verify(folder)}
    assert states["report.html"] == "ok"
    report = folder / "report.html"
    text = report.read_text(encoding="utf-8")
    for added in (
        "<script>1</script>",
        '<img src="http://x.y/z.png">',
        '<p onclick="x()">',
        '<p style="background: url(http://x.y)">',
        '<meta http-equiv="refresh" content="0; url=http://x.y">',
        "<style>@import 'x.css'</style>",
    ):
        report.write_text(text.replace("</main>", f"{added}</main>"), encoding="utf-8")
        assert {f.state for f in zoo.verify(folder) if f.file == "report.html"} == {"wrong"}
    report.unlink()
    assert "report.html" not in {found.file for found in zoo.verify(folder)}


@pytest.mark.medium
def test_images_that_have_changed_or_vanished_are_said_so(run, photos, tmp_path):
    moved = Path(shutil.copytree(photos, tmp_path / "photos"))
    folder = tmp_path / "run"
    zoo.finetune(moved, out=folder, report=False, **{**QUICK, "train": "probe"})
    assert not (folder / "report.html").exists()
    for n, file in enumerate(sorted(moved.glob("test/*/*"))):
        if n % 2:
            file.unlink()
        else:
            Image.effect_noise((40, 40), 90).save(file)
    zoo.write_report(folder, device="cpu")
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "no longer in the dataset" in page.text
    assert "the image has changed since it was measured" in page.text
    labels = [attrs["aria-label"] for attrs in page.all("svg") if "aria-label" in attrs]
    assert any("accuracy of the probe" in text for text in labels)
    shutil.rmtree(moved)
    zoo.write_report(folder, device="cpu")
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert not page.all("img")
    assert any("Left out of this report: images" in text for text in page.text)


def test_a_run_is_measured_on_other_images(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zoo_("report", str(run), "--data", str(photos / "test"), "--split", "all")
    page = Page(Path("test-report.html").read_text(encoding="utf-8"))
    assert any("Measured on other data" in text for text in page.text)
    assert page.all("img")


@pytest.mark.medium
def test_a_failing_report_does_not_lose_the_run(photos, tmp_path, monkeypatch):
    def fail(subject):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(build, "report_html", fail)
    notes = []
    zoo.finetune(photos, out=tmp_path / "run", listen=notes.append, **{**QUICK, "train": "probe"})
    warnings = [note.text for note in notes if isinstance(note, Note) and note.warning]
    assert any("planted" in text for text in warnings)
    assert {f.state for f in zoo.verify(tmp_path / "run")} == {"ok"}


def test_a_model_file_alone_needs_data(run, tmp_path):
    alone = shutil.copy(run / "model.safetensors", tmp_path)
    with pytest.raises(RunError, match=r"predictions\.parquet"):
        zoo.write_report(alone)


def test_control_characters_are_visible(run):
    loaded = zoo.load(run)
    content = build.report_html(
        build.Subject(
            run=loaded,
            columns={
                "name": ["a\x1b[2J\u202e.png"],
                "split": ["val"],
                "group": [None],
                "label": [HOSTILE[0]],
                "predicted": [HOSTILE[1]],
                "correct": [False],
                "probability": [0.5],
                **dict(zip((f"p_{n}" for n in HOSTILE), ([0.3], [0.5], [0.2]), strict=True)),
            },
        )
    )
    assert "a\\x1b[2J\\u202e.png" in html.unescape(content)
    assert "\x1b" not in content


def test_many_classes_have_a_list_of_confusions(run):
    names = [f"class {n}" for n in range(31)]
    shares = {f"p_{name}": [0.9 if n == 1 else 0.001] * 2 for n, name in enumerate(names)}
    content = report_of(run, names, "single-label", [names[0]] * 2, [names[1]] * 2, shares)
    assert "1 of 1 pairs of classes" in content.text
    assert not [attrs for attrs in content.all("table") if attrs.get("class") == "matrix"]


def test_several_labels_of_an_image_are_reported(run):
    names = ["a", "b", "c"]
    shares = {"p_a": [0.9, 0.2], "p_b": [0.8, 0.6], "p_c": [0.1, 0.4]}
    given, predicted = [["a", "b"], []], [["a", "b"], ["b"]]
    content = report_of(run, names, "multi-label", given, predicted, shares)
    assert any("mAP" in text for text in content.text)
    assert any("a + b" in text for text in content.text)
    assert "nothing" in content.text
    assert any("no confusion matrix" in text for text in content.text)
    assert any("suspected labels" in text for text in content.text)


def test_suspected_labels_are_shown(run, photos):
    loaded = zoo.load(run, device="cpu")
    splits = read_splits(open_source(str(photos)), val_split=0.2, seed=0)
    found = build.Suspected(
        name=splits.train[0].name, label=HOSTILE[0], suggested=HOSTILE[1], probability=0.987
    )
    subject = build.Subject(
        run=loaded,
        columns=read_columns(run / "predictions.parquet"),
        splits=splits,
        suspected=[found],
    )
    page = Page(build.report_html(subject))
    assert "suspected-labels" in [attrs.get("id") for attrs in page.all("h3")]
    assert any("98.7%" in text for text in page.text)
    assert any(attrs["alt"].startswith(found.name) for attrs in page.all("img"))


def test_the_machine_and_the_versions_are_shown(page):
    shown = "".join(page.text)
    assert platform.platform() in shown
    for name in ("zoo", "torch", "threads", "processor"):
        assert name in page.text


def test_the_table_of_classes_has_the_auroc_of_each(page):
    headings = {text for text in page.text if text in ("recall", "F1", "AUROC")}
    assert headings == {"recall", "F1", "AUROC"}


@pytest.mark.medium
def test_few_images_are_said_once_before_training_and_in_the_report(photos, tmp_path):
    _, notes, _ = hear(photos, tmp_path / "run", **{**QUICK, "train": "probe"})
    assert sum("val has 18 images" in text for text in notes) == 1
    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert any("val has 18 images" in text for text in page.text)


@pytest.mark.medium
def test_classes_without_val_images_are_named_everywhere(photos, tmp_path):
    data = Path(shutil.copytree(photos, tmp_path / "photos"))
    shutil.rmtree(sorted((data / "val").iterdir())[0])
    _, notes, _ = hear(data, tmp_path / "run", **{**QUICK, "train": "probe"})
    said = "without val images are not measured"
    assert said in notes[-1]
    assert said in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert any(said in text for text in page.text)
    assert "not measured: no images" in page.text


def test_other_images_may_be_refused_if_some_are_unusable(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    others = Path(shutil.copytree(photos / "test", tmp_path / "others"))
    next(others.glob("*/*")).write_bytes(b"no image")
    arguments = ["report", str(run), "--data", str(others), "--split", "all"]
    zoo_(*arguments)
    zoo_(*arguments, "--strict", code=2)
    alone = zoo_("report", str(run), "--strict", code=2)
    assert "--data" in alone.output


def test_suspected_labels_have_a_map_of_their_own(run, photos):
    loaded = zoo.load(run, device="cpu")
    splits = read_splits(open_source(str(photos)), val_split=0.2, seed=0)
    suspected = [
        build.Suspected(name=name, label=HOSTILE[0], suggested=HOSTILE[1], probability=0.9)
        for name in (splits.train[0].name, "gone.png")
    ]
    columns = read_columns(run / "predictions.parquet")
    subject = build.Subject(run=loaded, columns=columns, splits=splits, suspected=suspected)
    omissions: list[str] = []
    parts = build.measured(columns, loaded.info.class_names, loaded.task)
    gallery = build._galleries(subject, parts, omissions)[-1]
    there, gone = (shot.thumbnail for shot in gallery.shots)
    assert there.heat
    assert gone.missing


@pytest.mark.medium
def test_what_the_checks_found_is_in_the_report_and_stays_there(photos, tmp_path):
    leaked = Path(shutil.copytree(photos, tmp_path / "photos"))
    for file in sorted(leaked.glob("val/*/*"))[:4]:
        shutil.copy(file, leaked / "train" / file.parent.name / f"copy {file.name}")
    folder = tmp_path / "run"
    zoo.finetune(leaked, out=folder, listen=ignore, **{**QUICK, "train": "probe"})
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "leakage" in text
    assert "Nothing was found wrong" not in text
    zoo.write_report(folder, device="cpu")
    assert (folder / "report.html").read_text(encoding="utf-8") == text


def test_a_run_without_val_images_has_curves_and_says_what_it_lacks(photos, tmp_path):
    shutil.copytree(photos / "train", tmp_path / "photos")
    folder = tmp_path / "run"
    fields = {**QUICK, "epochs": 2, "val_split": 0}
    zoo.finetune(tmp_path / "photos", out=folder, listen=ignore, **fields)
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    labels = [attrs["aria-label"] for attrs in page.all("svg") if attrs.get("class") == "plot"]
    assert labels
    assert all("train" in text for text in labels)
    assert not any("the best is" in text for text in page.text)
    assert any("no val images" in text for text in page.text)
    assert not any("0 of 0" in text for text in page.text)


@pytest.mark.slow
def test_images_of_folds_are_not_taken_for_changed(photos, tmp_path):
    shutil.copytree(photos / "train", tmp_path / "photos")
    folder = tmp_path / "run"
    zoo.finetune(tmp_path / "photos", out=folder, listen=ignore, folds=2, **QUICK)
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.all("img")
    assert not any("has changed" in text for text in page.text)
    assert any("runs that have not learnt from the image" in text for text in page.text)


def report_of(run, names, task, label, predicted, shares) -> Page:
    """Return the report of predictions that were not made by the run."""
    loaded = zoo.load(run)
    info = replace(
        loaded.info,
        class_names=tuple(names),
        task=task,
        val_metrics={**loaded.info.val_metrics, "map": 0.5},
    )
    columns = {
        "name": ["a.png", "b.png"],
        "split": ["val", "val"],
        "group": [None, None],
        "label": label,
        "predicted": predicted,
        "correct": [False, False],
        "probability": [0.9, 0.6],
        **shares,
    }
    return Page(build.report_html(build.Subject(run=replace(loaded, info=info), columns=columns)))
