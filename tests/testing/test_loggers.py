"""The checks of a logger, proven by faults; zoo's own loggers pass them."""

import sys
import types
from pathlib import Path

import pytest

from tests.testing.results import failed
from zoo.testing import check_logger, check_names

SOUND = """
import zoo


@zoo.hookimpl
def zoo_loggers():
    return {"lines": Lines}


class Lines:
    def __init__(self):
        import a_tracker

    def __call__(self, event):
        match event:
            case zoo.events.RunStart():
                self.file = event.folder / "lines.txt"
                self.log(event.recipe["lr"])
            case zoo.events.StepEnd():
                if event.loss is not None:
                    self.log(round(event.loss, 3))
            case zoo.events.EpochEnd():
                self.log(event.metrics["val_loss"])

    def log(self, value):
        with self.file.open("a") as file:
            print(value, file=file)
"""

#: Fault -> (text of the sound plugin, its mutation, the check that catches it).
FAULTS = {
    "no function": ("def __call__", "def call", "check_logger_is_made"),
    "arguments": ("def __init__(self)", "def __init__(self, folder)", "check_logger_is_made"),
    "notes unexpected": (
        "case zoo.events.StepEnd()",
        "case zoo.events.Note():\n    "
        + 12 * " "
        + "self.file.touch()\n            case zoo.events.StepEnd()",
        "check_events_are_taken",
    ),
    "a loss in every step": ("if event.loss is not None", "if True", "check_events_are_taken"),
    "a new file": (
        'self.file = event.folder / "lines.txt"',
        'self.file = event.folder / "lines.txt"\n                self.file.touch(exist_ok=False)',
        "check_a_resumed_run_is_taken",
    ),
    "metrics of one task": ('["val_loss"]', '["val_f1"]', "check_other_events_are_ignored"),
    "prints": ("print(value, file=file)", "print(value)", "check_nothing_is_printed"),
    "pops a setting": (
        'event.recipe["lr"]',
        'event.recipe.pop("lr")',
        "check_events_are_not_changed",
    ),
    "pops a metric": (
        'event.metrics["val_loss"]',
        'event.metrics.pop("val_loss")',
        "check_events_are_not_changed",
    ),
}


@pytest.fixture
def a_tracker(monkeypatch):
    """The library of the logger, installed."""
    monkeypatch.setitem(sys.modules, "a_tracker", types.ModuleType("a_tracker"))


@pytest.mark.usefixtures("a_tracker")
def test_a_sound_logger_passes_every_check(install):
    install("acme-lines", "lines", "acme_lines_sound", SOUND)
    results = check_logger("lines")
    assert tuple(r.check for r in results) == check_names("logger")
    assert {(r.kind, r.name, r.status) for r in results} == {("logger", "lines", "passed")}


@pytest.mark.usefixtures("a_tracker")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault, install):
    old, new, name = FAULTS[fault]
    assert old in SOUND
    install("acme-lines", "lines", f"acme_lines_{fault.replace(' ', '_')}", SOUND.replace(old, new))
    assert failed(check_logger("lines")) == [name]


def test_every_check_is_proven_by_a_fault():
    assert {name for _, _, name in FAULTS.values()} == set(check_names("logger"))


def test_a_logger_whose_library_is_not_installed_is_skipped(install):
    install("acme-lines", "lines", "acme_lines_missing", SOUND)
    results = check_logger("lines")
    assert {r.status for r in results} == {"skipped"}
    assert "a_tracker" in results[0].message


def test_zoos_tensorboard_passes():
    assert {r.message for r in check_logger("tensorboard") if r.status != "passed"} == set()


@pytest.mark.slow
def test_zoos_mlflow_passes(monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Path("mlruns").absolute().as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert {r.message for r in check_logger("mlflow") if r.status == "failed"} == set()


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_offline")
def test_zoos_wandb_passes():
    assert {r.message for r in check_logger("wandb") if r.status == "failed"} == set()
