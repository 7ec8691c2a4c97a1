"""What is printed fits the terminal, and is one line a row elsewhere."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.conftest import QUICK
from zoo.cli import main
from zoo.cli.console import TrainingConsole
from zoo.cli.tune import _SearchConsole
from zoo.events import TrialEnd
from zoo.runs.evaluate import ClassMetrics, Evaluation
from zoo.runs.figures import figures
from zoo.tasks import SINGLE_LABEL

TRAINING = {**QUICK, "train": "probe+finetune", "epochs": 2}
FLAGS = [f"--{k.replace('_', '-')}={v}" for k, v in TRAINING.items()]

WIDTHS = (60, 80, 120)


@pytest.fixture
def terminal(monkeypatch):
    """Makes stdout a terminal, as far as rich and click can tell, of that width."""

    def terminal(width: int) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", str(width))

    return terminal


def zoo_(*args: object) -> list[str]:
    """The lines that are printed, escape sequences left out."""
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == 0, result.output
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", result.stdout).splitlines()


def scores_of(confusion: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets that have this confusion matrix."""
    truth, taken = confusion.nonzero()
    counts = torch.from_numpy(confusion[truth, taken])
    logits = 5.0 * torch.eye(len(confusion))[torch.from_numpy(taken)]
    return logits.repeat_interleave(counts, 0), torch.from_numpy(truth).repeat_interleave(counts)


@pytest.fixture
def evaluated(monkeypatch):
    """Makes `zoo evaluate` print that many classes of long names, from 100 on confused at times."""

    def evaluated(classes: int) -> np.ndarray:
        confusion = np.diag(np.arange(100, 100 + classes))
        for n, (truth, taken) in enumerate(pairwise(range(classes))):
            confusion[truth, taken] = 1 + n
        names = [f"a class with a rather long name, number {n}" for n in range(1, classes + 1)]
        result = Evaluation(
            source="photos",
            images=int(confusion.sum()),
            accuracy=float(np.trace(confusion) / confusion.sum()),
            loss=0.1234,
            metrics={"accuracy": 0.9},
            classes=tuple(
                ClassMetrics(name=name, images=100, precision=1.0, recall=1.0, f1=1.0)
                for name in names
            ),
            confusion=tuple(map(tuple, confusion.tolist())),
            issues=(),
            figures=figures(*scores_of(confusion), names, SINGLE_LABEL),
            rows={},
        )
        run = SimpleNamespace(model=None, backbone=None, info=None)
        monkeypatch.setattr("zoo.runs.read.load", lambda *_, **__: run)
        monkeypatch.setattr("zoo.runs.evaluate.evaluate_together", lambda *_, **__: result)
        return confusion

    return evaluated


def matrix_in(lines: list[str], classes: int) -> list[list[int]]:
    """The rows of the confusion matrix; none where it is not printed."""
    rows = [re.search(rf"^ *\d+  .*?((?: +\d+){{{classes}}})$", line) for line in lines]
    return [[int(n) for n in row[1].split()][-classes:] for row in rows if row]


def class_table(lines: list[str], classes: int) -> list[str]:
    """The header of the table of classes, and a text of one or more lines for each class."""
    start = next(n for n, line in enumerate(lines) if line.startswith("class "))
    head, *rest = lines[start:]
    firsts = [n for n, line in enumerate(rest) if re.match(r"a class.*%", line)]
    assert len(firsts) == classes
    return [head, *(rest[n] for n in firsts)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("classes", [2, 6, 12, 60])
@pytest.mark.medium
def test_evaluate_fits_the_terminal_with_every_number_whole(classes, width, evaluated, terminal):
    confusion = evaluated(classes)
    terminal(width)
    lines = zoo_("evaluate", "run")
    assert max(map(len, lines)) <= width
    head, *rows = class_table(lines, classes)
    shown = [name for name in ("precision", "recall", "f1", "auroc") if name in head]
    assert shown[:3] == ["precision", "recall", "f1"]
    cell = r"\d+\.\d% \d+-\d+" if width == 120 else r"\d+\.\d+%( \d+-\d+)?"
    for row in rows:
        assert len(re.findall(rf"(?<!\S){cell}(?!\S)", row)) == len(shown)
    matrix = matrix_in(lines, classes)
    assert bool(matrix) == (classes * 5 + 17 <= width)
    if matrix:
        assert matrix == confusion.tolist()
    else:
        assert any("--format json" in line for line in lines)
        first = next(n for n, line in enumerate(lines) if "confusions" in line) + 1
        numbers = [int(m[0]) for line in lines[first:] if (m := re.match(r" *\d+(?=  )", line))]
        assert numbers == list(range(classes - 1, 0, -1))[:20]


@pytest.mark.parametrize("classes", [2, 12])
def test_evaluate_in_a_pipe_is_a_line_a_class(classes, evaluated, monkeypatch):
    confusion = evaluated(classes)
    monkeypatch.setenv("COLUMNS", "40")
    lines = zoo_("evaluate", "run")
    _, *rows = class_table(lines, classes)
    assert all(len(re.findall(r"\d+\.\d% \d+-\d+", row)) == 4 for row in rows)
    assert matrix_in(lines, classes) == confusion.tolist()
    assert [line for line in lines if line != line.rstrip() or not line.isascii()] == []


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.medium
def test_finetune_fits_the_terminal_and_names_each_column_once(width, terminal, photos):
    terminal(width)
    lines = zoo_("finetune", "--data", photos, "--out", "run", *FLAGS)
    groups = next(n for n, line in enumerate(lines) if "group" in line)
    epochs = next(n for n, line in enumerate(lines) if re.match("epoch +(train )?loss", line))
    assert max(map(len, lines[groups : groups + 3] + lines[epochs - 1 : epochs + 1])) <= width
    head = lines[epochs - 1 : epochs + 1]
    if width == 120:
        assert re.split(r" {2,}", head[1].strip()) == [
            "epoch",
            "train loss",
            "train acc",
            "val loss",
            "val acc",
            "lr backbone",
            "lr head",
            "seconds",
            "data wait",
        ]
    else:
        assert head[0].split()[:4] == ["train", "train", "val", "val"]
        assert head[1].split()[:5] == ["epoch", "loss", "acc", "loss", "acc"]
        assert re.search(r"data wait.*metrics\.csv", " ".join(lines))
    rows = [
        line.split()[0] for line in lines[epochs + 1 :] if re.match(" *(probe|[0-9]) .*%", line)
    ]
    assert rows == ["probe", "1", "2"]


@pytest.mark.slow
def test_finetune_in_a_pipe_has_one_line_a_row(photos, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = zoo_("finetune", "--data", photos, "--out", "run", *FLAGS)
    (groups,) = (n for n, line in enumerate(lines) if line.startswith("group"))
    assert re.split(r" {2,}", lines[groups]) == [
        "group",
        "parameters",
        "learning rate",
        "weight decay",
        "not decayed",
        "trains",
    ]
    (epochs,) = (n for n, line in enumerate(lines) if line.startswith("epoch"))
    assert [line.split()[0] for line in lines[epochs + 1 : epochs + 4]] == ["probe", "1", "2"]
    assert [line for line in lines if line != line.rstrip()] == []


@pytest.mark.parametrize(("width", "longest"), [(100, 100), (300, 120)])
def test_help_is_as_wide_as_the_terminal_up_to_a_maximum(width, longest):
    # In a process of its own, for click's CliRunner has a width of its own.
    command = [sys.executable, "-m", "zoo", "finetune", "--help"]
    environment = {**os.environ, "COLUMNS": str(width)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert longest - 10 < max(map(len, done.stdout.splitlines())) <= longest


def test_the_table_of_trials_continues_values_below_each_other(terminal, capsys):
    terminal(80)
    params = {"lr": 0.000431, "layer_decay": 0.812, "label_smoothing": 0.05, "augment": "strong"}
    with TrainingConsole() as training:
        console = _SearchConsole(training)
        for number, (state, best) in enumerate([("complete", True), ("pruned", False)]):
            console(
                TrialEnd(
                    number=number,
                    params=params,
                    state=state,
                    value=0.9312,
                    epochs=6,
                    seconds=1234.5,
                    best=best,
                    reason="",
                )
            )
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    assert max(map(len, lines)) <= 80
    column = lines[0].index("values")
    rows = [line for line in lines[1:] if line[:5].strip()]
    assert [row.split()[:2] for row in rows] == [["0", "best"], ["1", "pruned"]]
    for line in lines[1:]:
        assert line[column - 1] == " "
        assert line[column:].strip()
    shown = "".join(line[column:] for line in lines[1:]).replace(" ", "")
    assert shown.count("label_smoothing=0.05") == 2
