"""Test-time augmentation: `tta` of predictions and evaluations."""

import csv
import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

from tests.conftest import zoo_
from zoo.errors import DataError
from zoo.recipe import change
from zoo.runs.stream import torch_engine
from zoo.runs.tta import views_of
from zoo.tasks.paired import mcnemar


def with_hflip(run, hflip):
    recipe = change(run.info.recipe, hflip=hflip)
    return dataclasses.replace(run, info=dataclasses.replace(run.info, recipe=recipe))


@pytest.fixture
def mirrored(run):
    """The run, as if it had been trained with mirrored images."""
    return with_hflip(run, True)


@pytest.fixture
def images(split_photos):
    return sorted((split_photos / "val").rglob("*.png"))


def probabilities(run, predictions):
    """(N, classes), in the order of the classes."""
    rows = [[dict(each.top)[name] for name in run.class_names] for each in predictions]
    return torch.tensor(rows, dtype=torch.float64)


def test_hflip_averages_the_logits_of_an_image_and_its_mirror_image(mirrored, images):
    prepared = [mirrored.prepare(image) for image in images]
    flipped = [np.ascontiguousarray(image[:, ::-1]) for image in prepared]
    asked, paths = mirrored.asked(top_k=3), [None] * len(images)
    one, other = (
        probabilities(mirrored, mirrored.predict_prepared(each, paths, asked))
        for each in (prepared, flipped)
    )
    # Logarithms of probabilities are logits, divided by the temperature, but for a constant.
    expected = torch.softmax((one.log() + other.log()) / 2, dim=1)
    found = probabilities(mirrored, mirrored.predict(images, top_k=3, tta="hflip"))
    assert not torch.allclose(found, one, atol=1e-4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("tta", "views"), [("hflip", 2), ("five-crop", 6)])
def test_an_engine_computes_each_view(mirrored, images, tta, views):
    own, seen = torch_engine(mirrored), []

    def compute(pixels):
        seen.append(pixels)
        return own.compute(pixels)

    engine = dataclasses.replace(own, compute=compute)
    found = list(mirrored.stream(images, tta=tta, top_k=3, engine=engine))
    assert len(seen) == views
    assert len({pixels.shape for pixels in seen}) == 1
    expected = mirrored.predict(images, tta=tta, top_k=3)
    torch.testing.assert_close(
        probabilities(mirrored, found), probabilities(mirrored, expected), atol=1e-4, rtol=0
    )
    assert [p.distance for p in found] == pytest.approx([p.distance for p in expected], rel=1e-3)


@pytest.mark.parametrize("tta", ["hflip", "five-crop"])
def test_an_image_whose_views_are_equal_is_predicted_as_without(mirrored, tta):
    image = np.full((48, 64, 3), (200, 40, 60), np.uint8)
    (with_views,), (alone,) = mirrored.predict(image, tta=tta), mirrored.predict(image)
    assert with_views.probability == pytest.approx(alone.probability, abs=1e-5)
    assert with_views.distance == pytest.approx(alone.distance, rel=1e-3)


def test_five_crops_are_the_corners_and_the_centre():
    pixels = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    pixels[..., :4, :4] = 255
    whole, *crops = views_of(pixels, "five-crop")
    assert torch.equal(whole, pixels)
    assert [crop.shape for crop in crops] == [pixels.shape] * 5
    # Only the crop of the top left corner has it.
    assert [int(crop.max()) == 255 for crop in crops] == [True, False, False, False, False]


def test_an_evaluation_has_the_figures_with_and_without(mirrored, images):
    without, found = mirrored.evaluate(), mirrored.evaluate(tta="hflip")
    assert without.tta is None
    assert "tta" not in without.rows
    gain = found.tta
    assert gain.tta == "hflip"
    assert gain.without.metrics == without.figures.metrics
    changed = (found.accuracy - without.accuracy) * found.images
    assert gain.only_with - gain.only_without == round(changed)
    assert gain.p == mcnemar(gain.only_with, gain.only_without)
    right = [p.label == p.path.parent.name for p in mirrored.predict(images, tta="hflip")]
    assert found.accuracy == sum(right) / len(images)
    assert found.loss != without.loss
    assert list(found.rows["tta"]) == ["hflip"] * len(images)


def test_a_run_trained_without_mirrored_images_says_so(run, images):
    sided = with_hflip(run, False)
    for predict in (sided.predict, lambda *args, **asked: list(sided.stream(*args, **asked))):
        with pytest.warns(UserWarning, match="hflip"):
            predict(images[:1], tta="hflip")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            predict(images[:1], tta="five-crop")
    assert [issue.kind for issue in sided.evaluate(tta="hflip").issues] == ["note"]
    assert not sided.evaluate(tta="five-crop").issues


def test_what_it_does_not_apply_to_is_refused(mirrored, images):
    for asked in (
        {"tta": "vflip"},
        {"tta": "hflip", "max_error": 0.5},
        {"tta": "hflip", "set_coverage": 0.5},
    ):
        with pytest.raises(DataError):
            mirrored.predict(images, **asked)
    with pytest.raises(DataError):
        mirrored.evaluate(tta="vflip")


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_files_of_predictions_name_it(run, split_photos, form):
    out = Path(f"out.{form}")
    zoo_("predict", run.path, split_photos / "val", "--tta", "five-crop", "--out", out)
    if form == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    elif form == "parquet":
        rows = parquet.read_table(out).to_pylist()
    else:
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    assert {row["tta"] for row in rows} == {"five-crop"}
    expected = run.predict([row["path"] for row in rows], tta="five-crop")
    assert [row["label"] for row in rows] == [each.label for each in expected]


def test_what_is_printed_names_it(run, split_photos):
    photo = next((split_photos / "val" / "red").glob("*.png"))
    printed = zoo_("predict", run.path, photo, "--tta", "five-crop", "--format", "json").stdout
    assert json.loads(printed)[0]["tta"] == "five-crop"
    printed = zoo_("predict", run.path, photo, "--tta", "five-crop", "--format", "csv").stdout
    (row,) = csv.DictReader(printed.splitlines())
    assert row["tta"] == "five-crop"
    assert "tta" not in zoo_("predict", run.path, photo, "--format", "json").stdout


def test_a_file_is_continued_only_with_the_same(run, split_photos, monkeypatch):
    from zoo.prediction import output

    def interrupt(*_):
        raise KeyboardInterrupt

    words = ("predict", run.path, split_photos / "val", "--out", "out.csv")
    with monkeypatch.context() as patch:
        patch.setattr(output, "_finish", interrupt)
        zoo_(*words, "--tta", "five-crop", code=130)
    zoo_(*words, "--resume", code=2)
    zoo_(*words, "--resume", "--tta", "hflip", code=2)
    zoo_(*words, "--resume", "--tta", "five-crop")
    assert Path("out.csv").exists()


def test_the_command_prints_both_figures(run):
    printed = zoo_("evaluate", run.path, "--tta", "five-crop").stdout
    assert "with five-crop" in printed
    assert "(p = " in printed
    found = json.loads(zoo_("evaluate", run.path, "--tta", "five-crop", "--format", "json").stdout)
    assert found["tta"]["tta"] == "five-crop"
    plain = json.loads(zoo_("evaluate", run.path, "--format", "json").stdout)
    assert found["tta"]["without"]["metrics"] == plain["figures"]["metrics"]
    assert plain["tta"] is None
    assert {row["tta"] for row in found["rows"]} == {"five-crop"}
