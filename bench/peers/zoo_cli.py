"""zoo as its users run it: `zoo finetune` with the flags given, timed by the lines it prints."""

import csv
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

_PLAN = re.compile(r"^images\s+(\d+) train, ")
#: A row of the table of epochs: epoch, train loss and accuracy, val loss and accuracy, and so on.
_EPOCH = re.compile(r"^\s*(\d+)\s+\S+\s+[\d.]+%\s+\S+\s+([\d.]+)%")
#: The same of the probe, which comes before the first epoch.
_PROBE = re.compile(r"^\s*probe\s+\S+\s+[\d.]+%\s+\S+\s+([\d.]+)%")
_ACCURACY = re.compile(r"val accuracy ([\d.]+)%")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "zoo", "finetune", "--out", str(out), *sys.argv[1:]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            printed = [(time.time() - common.STARTED, line) for line in process.stdout]
        if process.returncode:
            sys.exit(process.returncode)
        report(printed, images_per_second(out / "metrics.csv"))
    common.finish(resource.RUSAGE_CHILDREN)


def report(printed: list[tuple[float, str]], speeds: dict[int, float]) -> None:
    """Report the accuracies that were printed, each at its time."""
    per_epoch = images = 0
    train_seconds = 0.0
    for t, line in printed:
        if match := _PLAN.match(line):
            per_epoch = int(match[1])
        elif match := _EPOCH.match(line):
            images += per_epoch
            train_seconds += per_epoch / speeds[int(match[1])]
            _say(t, images, train_seconds, match[2])
        elif match := _PROBE.match(line) or _ACCURACY.search(line):
            _say(t, images, train_seconds, match[1])


def _say(t: float, images: int, train_seconds: float, percent: str) -> None:
    accuracy = float(percent) / 100
    common.report(t=t, images=images, train_seconds=train_seconds, val_accuracy=accuracy)


def images_per_second(metrics: Path) -> dict[int, float]:
    """By epoch, of training alone; empty where no network was trained."""
    if not metrics.exists():
        return {}
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {int(row["epoch"]): float(row["images_per_second"]) for row in rows}


if __name__ == "__main__":
    main()
