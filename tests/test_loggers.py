"""Loggers: declared by plugins, chosen by name, told what happens."""

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import zoo
from tests.conftest import QUICK, zoo_
from tests.pipeline.crash import Crash, crash_at
from zoo.errors import PluginError
from zoo.events import (
    EpochEnd,
    Measured,
    Mistake,
    Mistakes,
    Note,
    Progress,
    RunEnd,
    RunStart,
    StepEnd,
)
from zoo.report.mistakes import pictures
from zoo.runs.scores import read_columns

FIELDS = {**QUICK, "train": "finetune", "epochs": 2}


def scalars(run):
    """(step, value) of each tag, as TensorBoard reads them."""
    log = EventAccumulator(str(run / "tensorboard"))
    log.Reload()
    return {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


def metrics(run):
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def check_logged(run):
    logged = scalars(run)
    for column, tag in (("val_loss", "loss/val"), ("train_accuracy", "accuracy/train")):
        expected = [(3 * int(row["epoch"]), float(row[column])) for row in metrics(run)]
        assert logged[tag] == [(step, pytest.approx(value)) for step, value in expected]
    assert [step for step, _ in logged["step/loss"]] == list(range(1, 7))
    accuracy = zoo.load(run).info.figures["val"].metrics["accuracy"]
    for suffix, value in (("", accuracy.value), ("_low", accuracy.low), ("_high", accuracy.high)):
        assert logged[f"final_val/accuracy{suffix}"] == [(6, pytest.approx(value))]
    check_pictures(run)
    assert logged["step/lr_head"][-1][1] == pytest.approx(float(metrics(run)[-1]["lr_head"]))


def check_pictures(run):
    """The confusion matrix and, if there are any, the mistakes are in TensorBoard's event file."""
    log = EventAccumulator(str(run / "tensorboard"))
    log.Reload()
    columns = read_columns(run / "predictions.parquet")
    wrong = not all(columns["correct"])
    tags = ["final_val/confusion", *(["final_val/mistakes"] if wrong else [])]
    assert sorted(log.Tags()["images"]) == tags
    for tag in tags:
        (event,) = log.Images(tag)
        image = Image.open(io.BytesIO(event.encoded_image_string))
        assert (event.step, image.size) == (6, (event.width, event.height))
        assert len(np.unique(np.asarray(image))) > 2


def test_pictures_show_what_the_event_holds():
    """Names may be anything, an image may be gone, and a split may be without mistakes."""
    names = ("a$b$_", "<b>ü漢\x1b[31m")
    image = io.BytesIO()
    Image.new("RGB", (32, 32), (255, 0, 0)).save(image, "PNG")
    shown = [
        Mistake(name="1", label=names[0], predicted=names[1], probability=0.9, image=each)
        for each in (image.getvalue(), b"")
    ]
    event = Mistakes(
        split="test", class_names=names, confusion=((5, 2), (0, 3)), total=2, shown=tuple(shown)
    )
    found = pictures(event)
    assert set(found) == {"confusion", "mistakes"}
    assert (np.asarray(found["mistakes"]) == (255, 0, 0)).all(axis=2).any()
    assert pictures(replace(event, confusion=(), shown=())) == {}


@pytest.mark.medium
def test_mistakes_are_those_of_the_predictions(photos, told):
    run = zoo.finetune(photos, out="run", loggers=["told"], **QUICK | {"seed": 3})
    (event,) = [e for e in told() if isinstance(e, Mistakes)]
    columns = read_columns(run.path / "predictions.parquet")
    rows = list(zip(columns["name"], columns["label"], columns["predicted"], strict=True))
    wrong = {row for row in rows if row[1] != row[2]}
    assert event.total == len(wrong)
    assert {(m.name, m.label, m.predicted) for m in event.shown} == wrong
    assert [m.probability for m in event.shown] == sorted(
        (m.probability for m in event.shown), reverse=True
    )
    index = {name: n for n, name in enumerate(event.class_names)}
    expected = np.zeros((3, 3), int)
    for _, label, predicted in rows:
        expected[index[label], index[predicted]] += 1
    assert np.array_equal(event.confusion, expected)


@pytest.mark.medium
def test_tensorboard_shows_what_metrics_csv_has(photos):
    run = zoo.finetune(photos, out="run", loggers=["tensorboard"], **FIELDS)
    check_logged(run.path)


@pytest.mark.medium
def test_a_resumed_run_logs_each_step_once(photos):
    """It crashes after more steps than its checkpoint has."""
    fields = {**FIELDS, "checkpoint_every": 2}
    with pytest.raises(Crash):
        zoo.finetune(
            photos, out="run", loggers=["tensorboard"], listen=crash_at(5, StepEnd), **fields
        )
    check_logged(zoo.resume("run", loggers=["tensorboard"]).path)


LOGGER = """
import zoo

TOLD = []

@zoo.hookimpl
def zoo_loggers():
    return {"told": Told, "failing": Failing, "missing": missing}

class Told:
    def __call__(self, event):
        TOLD.append(event)

class Failing:
    def __call__(self, event):
        if isinstance(event, zoo.events.StepEnd):
            raise ValueError("no connection")

def missing():
    import a_tracker
"""


@pytest.fixture
def told(install):
    install("zoo-acme", "acme", "acme_logger", LOGGER)

    def events():
        return sys.modules["acme_logger"].TOLD

    return events


@pytest.mark.medium
def test_a_plugins_logger_is_told_from_start_to_end(photos, told):
    run = zoo.finetune(photos, out="run", loggers=["told"], **FIELDS)
    kinds = [type(e) for e in told() if not isinstance(e, Note | Progress)]
    assert kinds[1:] == [
        RunStart,
        *2 * [StepEnd, StepEnd, StepEnd, EpochEnd],
        Measured,
        Mistakes,
        RunEnd,
    ]
    (start,) = [e for e in told() if isinstance(e, RunStart)]
    assert (start.folder, start.step, start.resumed) == (run.path, 0, False)
    assert start.recipe["epochs"] == 2
    assert told()[-1] == RunEnd(folder=run.path, error=None)


def test_of_an_interrupted_run_a_logger_is_told_so(photos, told):
    def interrupt(event):
        if isinstance(event, StepEnd):
            raise KeyboardInterrupt

    with pytest.raises(zoo.Stopped):
        zoo.finetune(photos, out="run", loggers=["told"], listen=interrupt, **FIELDS)
    assert told()[-1].error == "interrupted"


def failing(logits, targets):
    raise ValueError("no such class")


def test_of_a_run_whose_loss_raises_a_logger_is_told_so_and_nothing_is_left(photos, told):
    with pytest.raises(ValueError, match="no such class"):
        zoo.finetune(photos, out="run", loggers=["told"], loss=failing, **FIELDS)
    assert told()[-1] == RunEnd(folder=Path("run"), error="ValueError: no such class")
    assert not Path("run").exists()


@pytest.mark.medium
def test_a_run_that_any_exception_ends_keeps_its_checkpoint(photos):
    def listen(event):
        if isinstance(event, RunEnd) or getattr(event, "epoch", 0) == 2:
            raise ValueError(type(event).__name__)

    with pytest.raises(ValueError, match="StepEnd") as raised:
        zoo.finetune(photos, out="run", listen=listen, **FIELDS)
    assert "--resume run" in "".join(raised.value.__notes__)
    assert zoo.resume("run").info.recipe.epochs == 2


@pytest.mark.medium
def test_a_logger_that_fails_is_switched_off_and_the_run_goes_on(photos, told):
    with pytest.warns(UserWarning, match="logger failing .*no connection"):
        run = zoo.finetune(photos, out="run", loggers=["failing", "told"], **FIELDS)
    assert run.info.epoch > 0
    assert isinstance(told()[-1], RunEnd)


def test_what_is_no_logger_or_lacks_its_library_is_said_before_anything_begins(photos, told):
    result = zoo_("finetune", "--data", str(photos), "--logger", "wandbb", code=2)
    assert "'wandbb'" in result.stderr
    assert "failing, missing, mlflow, tensorboard, told, wandb" in result.stderr
    with pytest.raises(PluginError, match=r"logger missing .*a_tracker"):
        zoo.finetune(photos, out="run", loggers=["missing"], **FIELDS)
    listed = zoo_("plugins")
    for name in ("failing", "missing", "told"):
        assert f"logger {name}" in listed.stdout


@pytest.fixture
def mlflow(monkeypatch):
    """MLflow, writing into the folder of the test."""
    library = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Path("mlruns").absolute().as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return library


@pytest.mark.slow
def test_mlflow_has_the_settings_and_the_metrics_of_a_resumed_run(photos, mlflow):
    with pytest.raises(Crash):
        zoo.finetune(photos, out="run", loggers=["mlflow"], listen=crash_at(5, StepEnd), **FIELDS)
    mlflow.end_run("KILLED")  # as the end of the process does
    run = zoo.resume("run", loggers=["mlflow"])
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("zoo").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert float(found.data.params["lr"]) == run.info.recipe.lr
    logged = client.get_metric_history(found.info.run_id, "loss/val")
    expected = [(3 * int(row["epoch"]), float(row["val_loss"])) for row in metrics(run.path)]
    (folder,) = client.list_artifacts(found.info.run_id, "final_val")[:1]
    assert folder.path == "final_val/confusion.png"
    assert [(m.step, m.value) for m in logged] == [(s, pytest.approx(v)) for s, v in expected]


@pytest.mark.slow
def test_mlflow_has_how_runs_ended_and_the_next_one_starts(photos, mlflow):
    def interrupt(event):
        if isinstance(event, StepEnd):
            raise KeyboardInterrupt

    fields = {**FIELDS, "loggers": ["mlflow"]}
    with pytest.raises(ValueError, match="no such class"):
        zoo.finetune(photos, out="failed", loss=failing, **fields)
    with pytest.raises(zoo.Stopped):
        zoo.finetune(photos, out="run", listen=interrupt, **fields)
    assert mlflow.active_run() is None
    client = mlflow.MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("zoo").experiment_id])
    assert sorted(run.info.status for run in found) == ["FAILED", "KILLED"]


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_offline")
def test_wandb_has_the_settings_and_the_metrics_of_a_resumed_run(photos):
    """Offline: a file for each start of a run, which `wandb sync` uploads as one run."""
    with pytest.raises(Crash):
        zoo.finetune(photos, out="run", loggers=["wandb"], listen=crash_at(5, StepEnd), **FIELDS)
    run = zoo.resume("run", loggers=["wandb"])
    name = (run.path / "wandb.id").read_text()
    first, second = (path.read_bytes() for path in sorted(Path("wandb").rglob(f"run-{name}.wandb")))
    of_run, of_steps, of_result = (
        b"head_lr_mult",
        (b"step/lr_head", b"loss/val"),
        b"final_val/f1_low",
    )
    assert of_run in first
    assert all(key in written for key in of_steps for written in (first, second))
    assert of_result in second
    assert b"final_val/confusion" in second
    assert of_result not in first


def test_a_tracker_that_is_not_installed_is_named(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PluginError, match=r"pip install .*wandb"):
        zoo.finetune(photos, loggers=["wandb"], **FIELDS)
