"""One run of one tool in a process of its own, the lines it reports, and the figures from them."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where training stood: what a peer's line says (bench/peers/common.py)."""

    t: float
    images: int
    train_seconds: float
    val_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: its points, seconds from start to exit, peak of resident memory in MB."""

    points: tuple[Point, ...]
    seconds: float
    peak_mb: float | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Run:
        """As `dataclasses.asdict` made it."""
        return cls(**{**values, "points": tuple(Point(**p) for p in values["points"])})


@dataclass(frozen=True, kw_only=True)
class Row:
    """A tool's runs, a round each; `problem` says why there are none."""

    name: str
    settings: str
    learns: bool
    runs: list[Run] = field(default_factory=list)
    problem: str | None = None


class RunFailed(Exception):
    """A peer ended with an error; the text is the end of what it printed."""


def measure(command: Sequence[str], environment: dict[str, str]) -> Run:
    """Run a Python script with this interpreter and collect what it reports.

    Raises:
        RunFailed: It ended with an error, or reported nothing.
    """
    started, clock = time.time(), time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        with subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                **environment,
                "BENCH_STARTED": repr(started),
            },
        ) as process:
            assert process.stdout is not None  # noqa: S101
            lines = list(process.stdout)
        seconds = time.perf_counter() - clock
        log.seek(0)
        points, peak_mb = parse(lines)
        if process.returncode or not points:
            printed = (log.read() + "".join(lines)).strip().splitlines()
            raise RunFailed("\n".join(printed[-5:]) or f"exit code {process.returncode}")
    return Run(points=points, seconds=seconds, peak_mb=peak_mb)


def parse(lines: Iterable[str]) -> tuple[tuple[Point, ...], float | None]:
    """(points, peak memory in MB) of a peer's output, in which other lines are ignored."""
    points: list[Point] = []
    peak_mb = None
    for line in lines:
        if not line.startswith('{"t": '):
            continue
        values = json.loads(line)
        if "peak_mb" in values:
            peak_mb = values["peak_mb"]
        else:
            points.append(Point(**values))
    return tuple(points), peak_mb


def seconds_to(run: Run, accuracy: float) -> float:
    """Seconds from process start until val accuracy was reached; inf if it never was."""
    reached = (p.t for p in run.points if p.val_accuracy is not None and p.val_accuracy >= accuracy)
    return next(reached, math.inf)


def accuracy_after(run: Run, seconds: float) -> float | None:
    """The best val accuracy known that many seconds after process start."""
    known = [p.val_accuracy for p in run.points if p.t <= seconds and p.val_accuracy is not None]
    return max(known, default=None)


def best_accuracy(run: Run) -> float | None:
    """The best val accuracy of all epochs."""
    return accuracy_after(run, math.inf)


def images_per_second(run: Run) -> float | None:
    """Of training alone, validation left out; None where no network was trained."""
    last = run.points[-1]
    return last.images / last.train_seconds if last.train_seconds else None


def seconds_per_epoch(run: Run) -> float | None:
    """Training and validation of an epoch after the first; None with fewer than two."""
    ends = [p.t for n, p in enumerate(run.points) if p.images > _images_before(run, n)]
    return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else None


def _images_before(run: Run, n: int) -> int:
    return run.points[n - 1].images if n else 0


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, least and most of a figure over the rounds."""

    median: float
    least: float
    most: float


def spread(row: Row, figure: Callable[[Run], float | None]) -> Spread | None:
    """A figure of each run, summed up; None where a run has none. May be inf, for never."""
    values = [figure(run) for run in row.runs]
    present = [value for value in values if value is not None]
    if not present or len(present) < len(values):
        return None
    return Spread(median=statistics.median(present), least=min(present), most=max(present))


def equal_time(rows: Sequence[Row]) -> float:
    """Seconds that the fastest other tool takes from start to exit; inf without one."""
    finishes = [
        found.median
        for row in rows
        if row.learns and not row.name.startswith("zoo ")
        if (found := spread(row, lambda run: run.seconds)) is not None
    ]
    return min(finishes, default=math.inf)


def write_results(path: Path, about: dict[str, Any], rows: Sequence[Row]) -> None:
    """Everything measured, as JSON."""
    path.write_text(json.dumps({**about, "rows": [asdict(r) for r in rows]}, indent=1) + "\n")


def read_results(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """(about, rows) of such a file."""
    about = json.loads(path.read_text())
    rows = [
        Row(**{**row, "runs": [Run.from_dict(run) for run in row["runs"]]})
        for row in about.pop("rows")
    ]
    return about, rows
