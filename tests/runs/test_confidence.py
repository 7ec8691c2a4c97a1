"""Calibrated probabilities, answers that may be unsure, prediction sets, unfamiliar images."""

import csv
import json
import shutil
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.conftest import QUICK, zoo_
from tests.runs.forging import MODEL, copy, forge
from zoo.errors import DataError, RunError
from zoo.runs.confidence import (
    MOST_ROWS,
    confidence_of,
    error_threshold,
    prediction_set,
    set_threshold,
)
from zoo.runs.familiarity import fit_familiarity
from zoo.runs.read import read_info
from zoo.runs.scores import read_columns
from zoo.runs.temperature import fit_temperature
from zoo.tasks import MULTI_LABEL, SINGLE_LABEL


def drawn(images: int, scale: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `scale` times too large, and labels drawn from the true probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).flatten()
    return scale * logits, labels


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_the_scale_of_logits(scale):
    logits, labels = drawn(4000, scale)
    found = fit_temperature(logits, labels, SINGLE_LABEL, probe=False)
    assert found == pytest.approx(scale, rel=0.1)


def test_one_temperature_scales_all_sigmoids():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3000, 3, generator=generator)
    targets = torch.bernoulli(logits.sigmoid(), generator=generator)
    found = fit_temperature(2 * logits, targets, MULTI_LABEL, probe=False)
    assert found == pytest.approx(2, rel=0.1)


def test_two_images_that_are_right_make_no_network_certain():
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    for probe in (True, False):
        found = fit_temperature(logits, torch.tensor([0, 1]), SINGLE_LABEL, probe=probe)
        assert 0.8 < found < 3
    none = fit_temperature(torch.zeros(0, 2), torch.zeros(0).long(), SINGLE_LABEL, probe=True)
    assert none == 1


def test_prediction_sets_cover_as_often_as_asked():
    logits, labels = drawn(12_000, 1.0)
    probabilities = logits.softmax(dim=1)
    names = ["a", "b", "c", "d"]
    for coverage in (0.8, 0.9, 0.95):
        hits = []
        for part in range(100):
            val, test = slice(part * 60, part * 60 + 60), slice(6000 + part * 60, 6060 + part * 60)
            known = confidence_of(probabilities[val], labels[val])
            least = set_threshold(known, coverage)
            for row, label in zip(probabilities[test].tolist(), labels[test].tolist(), strict=True):
                ranked = sorted(zip(names, row, strict=True), key=lambda each: -each[1])
                hits.append(names[label] in prediction_set(ranked, least))
        assert coverage - 0.015 < np.mean(hits) < coverage + 0.03


def test_thresholds_keep_the_error_rate_nine_times_in_ten():
    logits, labels = drawn(60_000, 1.0)
    values, predicted = logits.softmax(dim=1).max(dim=1)
    wrong = predicted != labels
    rates = []
    for part in range(100):
        val = slice(part * 300, part * 300 + 300)
        known = confidence_of(logits[val].softmax(dim=1), labels[val])
        with suppress(DataError):
            least = error_threshold(known, 0.2).probability
            rates.append(float(wrong[30_000:][values[30_000:] >= least].double().mean()))
    assert len(rates) > 60
    assert sum(rate > 0.2 for rate in rates) <= 13


def test_what_few_images_can_not_show_is_refused():
    logits, labels = drawn(15, 1.0)
    known = confidence_of(logits.softmax(dim=1), labels)
    with pytest.raises(DataError, match=r"\b15 .*\b1\.0%") as error:
        error_threshold(known, 0.01)
    assert "`min_confidence`" in error.value.hint
    with pytest.raises(DataError, match=r"95\.0% .*\b19 .*\b15\b"):
        set_threshold(known, 0.95)
    assert 0 <= set_threshold(known, 0.9) <= 1


def test_many_val_images_are_summarised_on_the_safe_side():
    logits, labels = drawn(5000, 1.0)
    probabilities = logits.softmax(dim=1)
    known = confidence_of(probabilities, labels)
    assert len(known.thresholds) == len(known.misfits) == MOST_ROWS
    assert known.covered[-1] == known.images == 5000
    exact = (1 - probabilities.gather(1, labels[:, None]).flatten()).sort().values
    for coverage in (0.5, 0.9, 0.999):
        needed = float(exact[int(np.ceil(5001 * coverage)) - 1])
        assert 1 - set_threshold(known, coverage) >= needed - 1e-6


def test_noise_is_far_from_what_clusters_and_more_of_the_same_is_not():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 400, generator=generator)

    def images(count: int) -> torch.Tensor:
        rows = centres[torch.arange(count) % 3]
        return rows + 0.5 * torch.randn(count, 400, generator=generator)

    known = fit_familiarity(images(90), images(60), 3)
    assert known.neighbour == 5
    assert float((known.distances(images(600)) > 1).double().mean()) < 0.12
    assert bool((known.distances(torch.randn(50, 400, generator=generator)) > 1).all())
    few = fit_familiarity(images(6), images(0), 3)
    assert few.neighbour == 1
    assert few.images == 0
    with pytest.raises(RunError, match=r"\b400\b"):
        known.distances(torch.zeros(1, 3))


def test_a_run_knows_its_temperature_and_predicts_with_it(run, split_photos):
    info = read_info(run.path / MODEL)
    assert info.temperature == run.info.temperature != 1
    assert info.confidence is not None
    assert info.confidence.images == info.familiarity.images == 12
    photos = sorted((split_photos / "val").rglob("*.png"))
    raw = replace(run, info=replace(run.info, temperature=1.0))
    predictions, others = run.predict(photos), raw.predict(photos)
    assert [p.label for p in predictions] == [p.label for p in others]
    for one, other in zip(predictions, others, strict=True):
        logits = torch.tensor([dict(other.top)[name] for name in run.class_names]).log()
        expected = (logits / info.temperature).softmax(dim=0).max()
        assert one.probability == pytest.approx(float(expected), abs=1e-5)
        assert one.familiar is (one.distance <= 1)
    columns = read_columns(run.path / "predictions.parquet")
    by_name = dict(zip(columns["name"], columns["probability"], strict=True))
    assert sorted(by_name.values()) == pytest.approx(sorted(p.probability for p in predictions))
    assert sorted(columns["distance"]) == pytest.approx(sorted(p.distance for p in predictions))
    assert run.evaluate().accuracy == raw.evaluate().accuracy
    assert run.evaluate().loss != raw.evaluate().loss


def shuffled(folder, seed: int = 0):
    """Two classes that differ a little: 24 images, a few of which any probe gets wrong."""
    random = np.random.default_rng(seed)
    for n in range(24):
        level = 80 + 90 * (n % 2) + 45 * random.standard_normal()
        pixels = np.clip(level + 30 * random.standard_normal((40, 40, 3)), 0, 255)
        place = folder / ("dark", "light")[n % 2] / f"{n}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place)
    return folder


@pytest.mark.medium
@pytest.mark.parametrize("val_split", [0.0, 0.25])
def test_a_probe_with_few_val_images_is_calibrated_out_of_fold(tmp_path, val_split):
    """All images are held out once: by the folds of cross-validation, or as val images."""
    data = shuffled(tmp_path / "data")
    fields = {**QUICK, "train": "probe", "val_split": val_split}
    run = zoo.finetune(data, out=tmp_path / "run", **fields)
    info = run.info
    assert info.calibrated == "probe"
    assert info.confidence.images == 24
    # Out of fold, the probe makes mistakes that it does not make on what it has learnt.
    assert info.confidence.wrong[-1] > 0
    assert run.error_threshold(0.7).coverage > 0
    run.predict(data / "dark" / "0.png", set_coverage=0.8)
    assert "cross-validation" in (run.path / "README.md").read_text()
    assert read_info(run.path / MODEL).temperature == info.temperature
    again = zoo.finetune(data, out=tmp_path / "again", **fields)
    assert (again.path / MODEL).read_bytes() == (run.path / MODEL).read_bytes()


def test_a_fine_tuned_run_without_held_out_images_says_so(split_photos, tmp_path):
    notes = []
    run = zoo.finetune(
        split_photos / "train",
        out=tmp_path / "run",
        listen=lambda event: notes.append(getattr(event, "text", "")),
        **{**QUICK, "train": "finetune", "val_split": 0},
    )
    assert (run.info.temperature, run.info.calibrated, run.info.confidence) == (1, "", None)
    assert any("not calibrated" in note for note in notes)
    assert "not calibrated: no held-out images" in (run.path / "README.md").read_text()
    with pytest.raises(DataError) as error:
        run.error_threshold(0.2)
    assert "`folds`" in error.value.hint


def test_unsure_images_have_no_label(run, split_photos):
    photos = split_photos / "val"
    predict = ["predict", run.path, photos, "--min-confidence"]
    entries = json.loads(zoo_(*predict, "99.9%", "--format", "json").stdout)
    unsure = [entry for entry in entries if entry["unsure"]]
    assert unsure
    for entry in entries:
        assert (entry["label"] is None) is entry["unsure"] is (entry["probability"] < 0.999)
        assert entry["top"][0]["label"] in run.class_names
    rows = list(csv.DictReader(zoo_(*predict, "0.999", "--format", "csv").stdout.splitlines()))
    assert [row["unsure"] == "true" for row in rows] == [e["unsure"] for e in entries]
    assert all((row["label"] == "") is (row["unsure"] == "true") for row in rows)
    assert "unsure" in zoo_(*predict, "0.999").stdout
    (prediction,) = run.predict(next(photos.rglob("*.png")), min_confidence=1.0)
    assert prediction.unsure
    assert prediction.labels == ()


def test_max_error_says_what_it_leaves_or_that_it_is_out_of_reach(run, split_photos):
    photos = split_photos / "val"
    result = zoo_("predict", str(run.path), str(photos), "--max-error", "1%", code=2)
    assert "held-out images" in result.output
    known = run.info.confidence
    logits = torch.eye(3).repeat(100, 1) * 9
    sure = confidence_of(logits.softmax(dim=1), torch.arange(300) % 3)
    assert error_threshold(sure, 0.02).coverage == 1
    assert known.covered[-1] == 12


def test_prediction_sets_are_printed_and_hold_the_best_class(run, split_photos):
    predict = ["predict", run.path, split_photos / "val", "--set-coverage", "80%"]
    for entry in json.loads(zoo_(*predict, "--format", "json").stdout):
        assert entry["top"][0]["label"] == entry["label_set"][0]
    header = zoo_(*predict, "--format", "csv").stdout
    assert header.splitlines()[0].split(",")[-1] == "label_set"
    zoo_(*predict)


@pytest.mark.parametrize("value", ["0", "100%", "-1", "nan", "much", "1e400"])
def test_a_share_that_is_none_is_refused(run, split_photos, value):
    zoo_("predict", run.path, split_photos, "--max-error", value, code=2)
    with pytest.raises(DataError, match="max_error"):
        run.predict(split_photos / "val" / "red" / "0.png", max_error=0)


def test_multi_label_runs_refuse_what_is_for_one_label(run, split_photos):
    several = replace(run, info=replace(run.info, task="multi-label"))
    for asked in ({"min_confidence": 0.9}, {"max_error": 0.1}, {"set_coverage": 0.9}):
        with pytest.raises(DataError, match=rf"{next(iter(asked))} .*multi-label"):
            several.predict(split_photos / "val" / "red" / "0.png", **asked)


def test_a_run_of_an_older_zoo_predicts_as_before(run, split_photos, tmp_path):
    folder = copy(run, tmp_path)
    forge(folder / MODEL, temperature=None, confidence=None, familiarity=None)
    old = zoo.load(folder)
    assert old.info.temperature == 1
    photo = split_photos / "val" / "red" / "0.png"
    (prediction,) = old.predict(photo)
    assert prediction.familiar is None
    with pytest.raises(DataError) as error:
        old.predict(photo, max_error=0.05)
    assert "train it again" in error.value.hint
    zoo_("predict", folder, photo)


def test_an_array_of_noise_has_a_distance(run):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for prediction in run.predict([noise, Image.new("RGB", (40, 40), "blue")]):
        assert prediction.distance >= 0


def known(run, **changes: object) -> dict[str, object]:
    return {**json.loads(run.info.to_metadata()["familiarity"]), **changes}


def test_hostile_records_are_refused_in_one_line(run, tmp_path):
    confidence = json.loads(run.info.to_metadata()["confidence"])
    nan = "AH4=" * (len(known(run)["rows"]) // 4)
    for n, (changes, named) in enumerate(
        [
            ({"temperature": "0"}, "temperature"),
            ({"temperature": "1e300"}, "temperature"),
            ({"temperature": "NaN"}, "NaN"),
            ({"calibrated": '"guess"'}, "calibrated"),
            ({"confidence": "[]"}, "confidence"),
            ({"confidence": json.dumps({**confidence, "images": -1})}, "images"),
            ({"confidence": json.dumps({**confidence, "images": 10**30})}, "64 bits"),
            ({"confidence": json.dumps({**confidence, "misfits": [2.0]})}, "misfits"),
            ({"confidence": json.dumps({**confidence, "wrong": [0] * 9999})}, "wrong"),
            ({"confidence": json.dumps({**confidence, "covered": [12]})}, "length"),
            ({"familiarity": json.dumps(known(run, width=7))}, "basis"),
            ({"familiarity": json.dumps(known(run, rows="!"))}, "base64"),
            ({"familiarity": json.dumps(known(run, rows="A" * 2**21))}, "rows"),
            ({"familiarity": json.dumps(known(run, rows=""))}, "neighbour"),
            ({"familiarity": json.dumps(known(run, rows=nan))}, "rows"),
            ({"familiarity": json.dumps(known(run, neighbour=0))}, "neighbour"),
            ({"familiarity": json.dumps(known(run, limit=0))}, "limit"),
            ({"familiarity": json.dumps(known(run, limit=1e308))}, "limit"),
        ]
    ):
        folder = copy(run, tmp_path / str(n))
        forge(folder / MODEL, **changes)
        with pytest.raises(RunError) as error:
            zoo.load(folder)
        assert named in str(error.value), (changes, str(error.value))
        assert "\n" not in str(error.value)
        shutil.rmtree(folder)
