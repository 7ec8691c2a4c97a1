"""Runs on folds: every image is held out once, groups stay together, and a kill loses nothing."""

import json
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

import zoo
from tests.conftest import COLOURS, IN_TWO, QUICK, save_photo, zoo_
from zoo.data.sources import open_source
from zoo.data.split import read_splits
from zoo.errors import DataError, RecipeError, RunError
from zoo.events import EpochEnd, RunEnd
from zoo.runs.scores import read_columns
from zoo.runs.temperature import fit_temperature
from zoo.tasks import SINGLE_LABEL

FIELDS = {**QUICK, "folds": 3, "group_by": r"(film\d+)_"}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Six films of each of two classes, with three frames each."""
    root = tmp_path_factory.mktemp("films") / "data"
    for film in range(12):
        colour = ("red", "green")[film % 2]
        for frame in range(3):
            save_photo(root / colour / f"film{film}_{frame}.png", COLOURS[colour], 9 * film + frame)
    return root


@pytest.fixture(scope="module")
def result(films, tmp_path_factory):
    out = tmp_path_factory.mktemp("folds") / "run"
    return zoo.finetune(films, out=out, **FIELDS)


def test_each_group_is_held_out_in_one_fold(films):
    held_out = Counter()
    for fold in (1, 2, 3):
        source = open_source(films, group_by=FIELDS["group_by"])
        splits = read_splits(source, val_split=0.2, seed=0, fold=(fold, 3))
        assert splits.counts(splits.val) == [6, 6]
        assert not {s.group for s in splits.train} & {s.group for s in splits.val}
        held_out.update(sample.name for sample in splits.val)
    assert set(held_out.values()) == {1}
    assert len(held_out) == 36


def test_all_images_are_measured_out_of_fold_and_the_result_learns_from_all(result):
    columns = read_columns(result.path / "folds.parquet")
    assert len(set(columns["name"])) == len(columns["name"]) == 36
    assert Counter(columns["fold"]) == {1: 12, 2: 12, 3: 12}
    found = result.info.figures["folds"]
    accuracy = found.metrics["accuracy"]
    assert accuracy.value == pytest.approx(sum(columns["correct"]) / 36)
    assert 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1
    assert (found.images, found.units) == (36, len(set(columns["group"])))
    assert json.loads((result.path / "folds.json").read_text())["figures"]["images"] == 36
    assert {found.state for found in zoo.verify(result.path)} == {"ok"}
    assert "folds/3/model.safetensors" in [found.file for found in zoo.verify(result.path)]
    assert result.evaluate(split="train").images == 36
    assert result.info.score is None
    assert "each held out once" in (result.path / "README.md").read_text()


def test_the_refit_is_calibrated_on_pooled_predictions(films, result):
    """Its temperature is that of all out-of-fold logits, which a fold's own one has divided."""
    logits, targets = [], []
    for number in (1, 2, 3):
        fold = zoo.load(result.path / "folds" / str(number))
        rows = read_columns(fold.path / "predictions.parquet")
        by_class = torch.tensor(np.array([rows[f"p_{name}"] for name in fold.class_names])).T
        logits.append(by_class.log() * fold.info.temperature)
        targets += [fold.class_names.index(label) for label in rows["label"]]
    probe = result.info.epoch == 0
    every, truth = torch.cat(logits), torch.tensor(targets)
    expected = fit_temperature(every, truth, SINGLE_LABEL, probe=probe)
    assert result.info.calibrated == "folds"
    assert result.info.temperature == pytest.approx(expected, abs=2e-4)
    assert result.info.confidence.images == 36
    assert result.error_threshold(0.9).coverage > 0
    assert "runs on folds" in (result.path / "README.md").read_text()
    # Each fold is measured with the temperature that the others suggest.
    rows = read_columns(result.path / "folds.parquet")
    pooled = torch.tensor(np.array([rows[f"p_{name}"] for name in result.class_names])).T
    for n in range(3):
        others = torch.cat([each for k, each in enumerate(logits) if k != n])
        rest = torch.tensor(
            [t for t, fold in zip(targets, rows["fold"], strict=True) if fold != n + 1]
        )
        temperature = fit_temperature(others, rest, SINGLE_LABEL, probe=probe)
        own = torch.tensor([fold == n + 1 for fold in rows["fold"]])
        assert torch.allclose(pooled[own], (logits[n] / temperature).softmax(dim=1), atol=1e-4)


def test_a_fold_is_a_run_of_its_own(films, result, tmp_path):
    fold = zoo.load(result.path / "folds" / "2")
    assert fold.evaluate().images == 12
    alone = zoo.finetune(films, out=tmp_path / "alone", fold=2, **FIELDS)
    for name, tensor in fold.model.state_dict().items():
        assert tensor.equal(alone.model.state_dict()[name])


def check_same(run, result):
    for name in ("figures", "confidence", "temperature"):
        assert getattr(run.info, name) == getattr(result.info, name)
    for name, tensor in run.model.state_dict().items():
        assert tensor.equal(result.model.state_dict()[name])


@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.medium
def test_interrupted_folds_go_on_to_the_same_result(films, result, tmp_path, after):
    """Interrupted in the middle of a fold, between folds, or before the end of the refit."""
    seen = Counter()

    def stop(event):
        seen[type(event)] += 1
        if isinstance(event, (EpochEnd if after == 1 else RunEnd)) and seen[type(event)] == after:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(films, out=out, listen=stop, **FIELDS)
    command = ["finetune", "--resume", str(out)]
    zoo_(*command)
    check_same(zoo.load(out), result)
    zoo_(*command)
    with pytest.raises(RunError):
        zoo.resume(out, epochs=3)


def test_folds_that_can_not_be_made_are_refused(films, split_photos, tmp_path):
    with pytest.raises(RecipeError):
        zoo.finetune(films, fold=1, **QUICK)
    with pytest.raises(RecipeError):
        zoo.finetune(films, folds=3, val=films, **QUICK)
    with pytest.raises(DataError):
        zoo.finetune(split_photos, out=tmp_path / "run", folds=3, **QUICK)
    with pytest.raises(DataError):
        zoo.finetune(films, out=tmp_path / "run", **{**FIELDS, "folds": 13})
    assert not (tmp_path / "run").exists()


#: Kills its process when a function is called for the n-th time: `execute`, or one of folds.
KILLED = """
import importlib, os, signal, sys
import zoo

name, calls, data, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
module = importlib.import_module("zoo.pipeline." + ("finetune" if name == "execute" else "folds"))
real = getattr(module, name)

def dies(*args, **kwargs):
    global calls
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)

setattr(module, name, dies)
zoo.finetune(data, out=out, **{fields})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "calls"),
    [("execute", 1), ("execute", 3), ("write_predictions", 1), ("write_folds", 2), ("execute", 4)],
)
def test_killed_folds_go_on_to_the_same_result(films, result, tmp_path, name, calls):
    out = tmp_path / "run"
    code = KILLED.replace("{fields}", repr(FIELDS))
    command = [sys.executable, "-c", code, name, str(calls), str(films), str(out)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    check_same(zoo.resume(out), result)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_also_after_a_kill(films, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fields = {**FIELDS, "train": "probe"}
    script = tmp_path / "killed.py"
    script.write_text(KILLED.replace("{fields}", repr(fields)))

    def launched(how, calls, out):
        """Start a run, in which each process dies when it executes another run for that time."""
        command = [*how, str(script), "execute", str(calls), str(films), str(out)]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    one, two = tmp_path / "one", tmp_path / "two"
    assert launched([sys.executable], 9, one).returncode == 0
    assert launched(IN_TWO, 2, two).returncode != 0
    assert zoo.load(two / "folds" / "1").path.is_dir()
    assert not (two / "folds.parquet").exists()
    resumed = subprocess.run(
        [*IN_TWO, "-m", "zoo", "finetune", "--resume", str(two)], capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    assert len([line for line in resumed.stdout.splitlines() if line.startswith("predict ")]) == 1
    found, expected = (read_columns(each / "folds.parquet") for each in (two, one))
    for name in ("name", "label", "fold", "group"):
        assert list(found[name]) == list(expected[name])
    for name in ("p_green", "p_red"):
        assert found[name] == pytest.approx(expected[name], abs=1e-3)
    runs = [zoo.load(each) for each in (two, one)]
    assert runs[0].info.temperature == pytest.approx(runs[1].info.temperature, rel=1e-2)
    assert runs[0].info.figures.keys() == runs[1].info.figures.keys()
    assert {finding.state for finding in zoo.verify(two)} == {"ok"}
