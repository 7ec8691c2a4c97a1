"""Figures and their intervals; scikit-learn, tables and simulations are the references."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

import zoo
from tests.conftest import QUICK, make_photos, save_photo, zoo_
from tests.runs.forging import forge
from zoo.errors import RunError
from zoo.events import Measured
from zoo.runs.figures import Figure, Figures, doubt, figures, wilson
from zoo.runs.read import load
from zoo.tasks import MULTI_LABEL, SINGLE_LABEL

NAMES = ("a", "b", "c", "d")


def drawn(images: int, seed: int = 0, skill: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Calibrated logits of four classes, of which the last is rare, and their targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = skill * torch.randn(images, 4, generator=generator)
    logits[:, 3] -= 1
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()


def several(images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, 4, generator=generator)
    return logits, torch.bernoulli(logits.sigmoid(), generator=generator)


def values(found: Figures) -> dict[str, float]:
    return {name: figure.value for name, figure in found.metrics.items()}


def test_auroc_of_many_images_has_the_interval_of_the_bootstrap(monkeypatch):
    logits, targets = drawn(2000, skill=2.0)
    exact = figures(logits, targets, NAMES, SINGLE_LABEL)
    monkeypatch.setattr("zoo.runs.figures._MOST_RANKED", 0)
    fast = figures(logits, targets, NAMES, SINGLE_LABEL)
    assert values(fast) == values(exact)
    pairs = [(fast.metrics["auroc"], exact.metrics["auroc"])]
    pairs += [(a.auroc, b.auroc) for a, b in zip(fast.classes, exact.classes, strict=True)]
    for one, other in pairs:
        wide = other.high - other.low
        assert abs(one.low - other.low) < 0.05 * wide
        assert abs(one.high - other.high) < 0.05 * wide


def test_single_label_values_are_scikit_learns():
    logits, targets = drawn(300, skill=3.0)
    found = figures(logits, targets, NAMES, SINGLE_LABEL)
    probabilities, predicted = logits.double().softmax(1).numpy(), logits.argmax(1).numpy()
    truth = targets.numpy()
    expected = {
        "accuracy": (predicted == truth).mean(),
        "balanced_accuracy": balanced_accuracy_score(truth, predicted),
        "f1": f1_score(truth, predicted, average="macro"),
        "auroc": roc_auc_score(truth, probabilities, multi_class="ovr"),
        "log_loss": log_loss(truth, probabilities),
    }
    assert values(found) == {**{k: pytest.approx(v) for k, v in expected.items()}, "ece": ANY}
    each = precision_recall_fscore_support(truth, predicted, zero_division=0)
    for n, of_class in enumerate(found.classes):
        given = (of_class.precision.value, of_class.recall.value, of_class.f1.value)
        assert given == pytest.approx([metric[n] for metric in each[:3]])
        assert of_class.images == each[3][n]
        auroc = roc_auc_score(truth == n, probabilities[:, n])
        assert of_class.auroc.value == pytest.approx(auroc)
    shares = np.bincount(truth) / len(truth)
    assert found.baseline.value == shares.max()
    assert found.better_than_baseline


ANY = type("Any", (), {"__eq__": lambda self, other: True, "__hash__": None})()


def test_multi_label_values_are_scikit_learns():
    logits, targets = several(150)
    logits = logits.round()  # Ties.
    found = figures(logits, targets, NAMES, MULTI_LABEL)
    probabilities, truth = logits.double().sigmoid().numpy(), targets.numpy()
    metrics = MULTI_LABEL.measure(logits, targets).values
    assert values(found) == {
        "map": pytest.approx(average_precision_score(truth, probabilities)),
        "f1": pytest.approx(metrics["f1"]),
        "accuracy": pytest.approx(metrics["accuracy"]),
        "auroc": pytest.approx(roc_auc_score(truth, probabilities)),
        "log_loss": pytest.approx(metrics["loss"]),
        "ece": ANY,
    }
    assert found.main == "map"
    assert found.metrics["map"].low < found.metrics["map"].value < found.metrics["map"].high


def test_the_calibration_error_is_the_mean_gap_of_equal_mass_bins():
    confidences = torch.linspace(0.55, 0.99, 30).double()
    logits = torch.stack([confidences.log(), (1 - confidences).log()], dim=1)
    targets = torch.tensor([0, 1, 0] * 10)
    found = figures(logits, targets, ("a", "b"), SINGLE_LABEL).metrics["ece"]
    correct = (targets == 0).double()
    gaps = [abs(float((confidences - correct)[n : n + 2].mean())) for n in range(0, 30, 2)]
    assert found.value == pytest.approx(sum(gaps) / 15)
    assert found.low <= found.value <= found.high


def test_what_has_no_images_is_not_measured():
    logits, targets = drawn(60)
    kept = targets != 2
    found = figures(logits[kept], targets[kept], NAMES, SINGLE_LABEL)
    absent = found.classes[2]
    assert absent.images == 0
    assert {absent.precision, absent.recall, absent.f1, absent.auroc} == {None}
    only = figures(logits[targets == 0], targets[targets == 0], NAMES, SINGLE_LABEL)
    assert "auroc" not in only.metrics
    assert only.classes[0].auroc is None
    assert not only.better_than_baseline
    never = logits.clone()
    never[:, 1] = -30
    of_class = figures(never, targets, NAMES, SINGLE_LABEL).classes[1]
    assert (of_class.precision, of_class.recall.value, of_class.f1.value) == (None, 0, 0)


@pytest.mark.parametrize("groups", [None, [str(n // 3) for n in range(12)]])
def test_a_perfect_value_of_few_images_has_an_interval(groups):
    targets = torch.arange(12) % 4
    logits = 9.0 * torch.eye(4)[targets]
    found = figures(logits, targets, NAMES, SINGLE_LABEL, groups)
    units = 12 if groups is None else 4
    assert found.units == units
    assert found.metrics["accuracy"] == wilson(units, units)
    for name in ("balanced_accuracy", "f1", "auroc"):
        figure = found.metrics[name]
        assert (figure.value, figure.high) == (1, 1)
        assert figure.low < 0.8
    assert found.metrics["ece"].high > 0.2
    assert all(of_class.recall.low < 0.5 for of_class in found.classes)


def test_images_of_a_group_tell_less_than_independent_ones():
    logits, targets = drawn(16)
    logits, targets = logits.repeat(8, 1), targets.repeat(8)
    groups = [str(n % 16) for n in range(128)]
    alone = figures(logits, targets, NAMES, SINGLE_LABEL)
    grouped = figures(logits, targets, NAMES, SINGLE_LABEL, groups)
    assert (alone.units, grouped.units) == (128, 16)
    assert values(alone) == values(grouped)
    for name, figure in grouped.metrics.items():
        if name != "ece":
            other = alone.metrics[name]
            assert figure.high - figure.low > 2 * (other.high - other.low)
    same = figures(logits, targets, NAMES, SINGLE_LABEL, ["one"] * 128)
    assert (same.metrics["accuracy"].low, same.metrics["accuracy"].high) == (0, 1)


def test_the_same_arguments_give_the_same_figures():
    logits, targets = drawn(50)
    found = figures(logits, targets, NAMES, SINGLE_LABEL)
    assert found == figures(logits, targets, NAMES, SINGLE_LABEL)
    other = figures(logits, targets, NAMES, SINGLE_LABEL, seed=1)
    assert other.metrics["log_loss"] != found.metrics["log_loss"]
    assert values(other) == values(found)


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [False, True])
def test_nineteen_of_twenty_intervals_contain_the_true_value(grouped):
    """Of 300 sets of 120 images, or of 30 groups of 4; the truth is that of 50,000 images."""
    population = figures(*drawn(50_000), NAMES, SINGLE_LABEL)
    truth = values(population) | recalls(population)
    del truth["ece"]  # Of a finite sample, the bins' noise is above the true value.
    inside = dict.fromkeys(truth, 0)
    for seed in range(1, 301):
        (logits, targets), groups = drawn(120, seed), None
        if grouped:
            # Of a group's four images, three are the same.
            logits = torch.cat([logits[:30].repeat(3, 1), logits[30:60]])
            targets = torch.cat([targets[:30].repeat(3), targets[30:60]])
            groups = [str(n % 30) for n in range(120)]
        found = figures(logits, targets, NAMES, SINGLE_LABEL, groups)
        every = found.metrics | {of_class.name: of_class.recall for of_class in found.classes[:3]}
        for name in inside:
            inside[name] += every[name].low <= truth[name] <= every[name].high
    # With 95 % a set, fewer than 270 of 300 have a probability of 1 in 3,000.
    assert {name: n for name, n in inside.items() if n < 270} == {}


def recalls(found: Figures) -> dict[str, float]:
    return {of_class.name: of_class.recall.value for of_class in found.classes[:3]}


@pytest.mark.slow
def test_a_calibrated_models_calibration_error_may_be_zero():
    """The intervals of 95 % of sets contain 0, and of few with probabilities that are too high."""
    sets = [drawn(120, seed) for seed in range(100)]
    lows = [figures(*each, NAMES, SINGLE_LABEL).metrics["ece"].low for each in sets]
    assert sum(low == 0 for low in lows) >= 90
    sure = [figures(3 * x, y, NAMES, SINGLE_LABEL).metrics["ece"].low for x, y in sets]
    assert sum(low == 0 for low in sure) <= 10


def test_a_figure_that_says_nothing_is_doubted():
    targets = torch.arange(40) % 2
    logits = torch.eye(2)[targets]
    assert doubt(figures(logits, targets, ("a", "b"), SINGLE_LABEL)) is None
    logits[:17] = logits[:17].flip(1)
    unclear = figures(logits, targets, ("a", "b"), SINGLE_LABEL)
    assert unclear.metrics["accuracy"].value > unclear.baseline.value
    assert not unclear.better_than_baseline
    logits[:] = torch.tensor([1.0, 0.0])
    guess = figures(logits, targets, ("a", "b"), SINGLE_LABEL)
    assert not guess.better_than_baseline
    assert doubt(guess, "val") != doubt(unclear, "val")


def test_every_format_of_evaluate_has_the_rows_of_predictions_parquet(run, split_photos):
    written = parquet.read_table(run.path / "predictions.parquet").to_pylist()
    assert len(written) == 12
    evaluate = ["evaluate", run.path, "--data", split_photos, "--format"]
    told = json.loads(zoo_(*evaluate, "json").stdout)
    assert told["rows"] == written
    zoo_(*evaluate, "parquet", "--output", "rows.parquet")
    again = parquet.read_table("rows.parquet")
    assert again.to_pylist() == written
    assert json.loads(again.schema.metadata[b"class_names"]) == list(run.class_names)
    text = zoo_(*evaluate, "csv").stdout
    zoo_(*evaluate, "csv", "--output", "rows.csv")
    assert Path("rows.csv").read_text() == text
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["name"] for row in rows] == [row["name"] for row in written]
    for row, other in zip(rows, written, strict=True):
        assert row["label"] == other["label"]
        for name in run.class_names:
            assert float(row[f"p_{name}"]) == other[f"p_{name}"]


def test_evaluates_json_has_the_figures(run, split_photos):
    told = json.loads(zoo_("evaluate", run.path, "--data", split_photos, "--format", "json").stdout)
    found = run.evaluate(split_photos).figures
    assert told["figures"]["better_than_baseline"] == found.better_than_baseline
    accuracy = told["figures"]["metrics"]["accuracy"]
    assert Figure(**accuracy) == found.metrics["accuracy"]
    assert accuracy["value"] == told["accuracy"]
    assert [each["name"] for each in told["figures"]["classes"]] == list(run.class_names)


def test_where_rows_are_written_is_checked(run, split_photos):
    evaluate = ["evaluate", run.path, "--data", split_photos]
    for given in (["--format", "parquet"], ["--output", "rows.csv"]):
        zoo_(*evaluate, *given, code=2)
    shown = zoo_(*evaluate, "--format", "csv", "--output", "nowhere/rows.csv", code=2)
    assert "nowhere/rows.csv" in shown.stderr


def test_a_class_without_images_is_shown_as_not_measured(run, split_photos, tmp_path):
    root = shutil.copytree(split_photos / "val", tmp_path / "data")
    shutil.rmtree(root / "red")
    lines = zoo_("evaluate", run.path, "--data", root).stdout.splitlines()
    (red,) = [line for line in lines if line.startswith("red ")]
    assert red.split() == ["red", "0", "not", "measured"]


@pytest.mark.medium
def test_a_run_tells_val_and_test_figures_and_keeps_them(split_photos, tmp_path):
    root = shutil.copytree(split_photos, tmp_path / "data")
    make_photos(root / "test", 5, first_seed=900)
    events: list[object] = []
    run = zoo.finetune(root, out=tmp_path / "run", listen=events.append, **QUICK)
    told = {event.split: event for event in events if isinstance(event, Measured)}
    assert list(told) == list(run.info.figures) == ["val", "test"]
    for split, found in run.info.figures.items():
        main = found.metrics["accuracy"]
        assert told[split].metrics["accuracy"] == (main.value, main.low, main.high)
        assert (told[split].images, told[split].doubt) == (found.images, doubt(found, split))
        again = run.evaluate(root, split=split).figures
        assert replace(again, classes=()) == found
    assert run.info.figures["test"].metrics["accuracy"].value == run.info.test_metrics["accuracy"]
    assert load(run.path).info == run.info
    card = (run.path / "README.md").read_text()
    index = json.loads(card.split("model-index: ")[1].splitlines()[0])
    results = index[0]["results"]
    assert [each["dataset"]["split"] for each in results] == ["val", "test"]
    assert {each["type"] for each in results[1]["metrics"]} == set(run.info.figures["test"].metrics)


@pytest.mark.parametrize(
    "figure",
    [
        {"value": 2e400, "low": 0.0, "high": 1.0},
        {"value": -1.0, "low": 0.0, "high": 1.0},
        {"value": "x", "low": 0.0, "high": 1.0},
        None,
    ],
)
def test_figures_of_a_strange_file_are_checked(run, tmp_path, figure):
    folder = shutil.copytree(run.path, tmp_path / "run")
    details = json.loads(run.info.to_metadata()["figures"])
    details["val"]["metrics"] = {} if figure is None else {"accuracy": figure}
    forge(folder / "model.safetensors", figures=json.dumps(details))
    with pytest.raises(RunError, match="figures"):
        load(folder)


@pytest.mark.medium
def test_a_run_no_better_than_its_baseline_is_red_and_not_called_best(tmp_path, monkeypatch):
    """One without any difference between its classes."""
    root = tmp_path / "data"
    for n in range(20):
        save_photo(root / "ab"[n % 2] / f"{n}.png", (200, 40, 40), n)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]
    told = zoo_("finetune", "--data", root, "--out", "run", *flags)
    red = [line for line in told.output.splitlines() if line.startswith("\x1b[1;31m")]
    assert any("val accuracy" in line for line in red)
    assert not re.search(r"\bbest\b *$", told.stdout, re.MULTILINE)
    figure = load("run").info.figures["val"]
    assert not figure.better_than_baseline
    assert ", the best" not in Path("run/README.md").read_text()
    again = zoo_("evaluate", "run").output
    assert "\x1b[1;31m" in again
    with pytest.warns(UserWarning, match=re.escape(doubt(figure, "val"))):
        zoo.finetune(root, out="again", **QUICK)
