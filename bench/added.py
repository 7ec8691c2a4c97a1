"""Measure the time that a run spends on evaluating its result, besides training.

    python bench/added.py /data/photos --runs "train=probe" "train=probe" ""

Each of `--runs` are fields of a recipe, as `train=probe image_size=96`; empty ones are the
defaults. Each run is a separate process, imports included. All share a new cache, so the same run
a second time finds the features of the first. Prints the CPU seconds of each step,
with one thread for computing, and their share of the run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo import allocator, plugins

#: Functions by step: module, and name in it. A step within another one counts once, for the inner.
STEPS = {
    "verdict on transfer": ["zoo.pipeline.phases:_Probing._measure_transfer"],
    "growth": ["zoo.pipeline.phases:measure_growth"],
    "suspects": ["zoo.pipeline.phases:_Probing._find_suspects"],
    "scores of val": ["zoo.pipeline.conclude:_Scorer.score"],
    "scores of train for familiarity": [],
    "scores of test": [],
    "calibration, familiarity": ["zoo.pipeline.conclude:_calibrated"],
    "figures": ["zoo.pipeline.conclude:figures"],
    "predictions.parquet": [
        "zoo.pipeline.conclude:rows_of",
        "zoo.pipeline.conclude:write_predictions",
    ],
    "report, thumbnails": ["zoo.report.build:thumbnails"],
    "report, the rest": ["zoo.pipeline.conclude:report_run"],
    "conclusion, the rest": ["zoo.pipeline.finetune:conclude"],
}


class Timers:
    """CPU seconds of the product's functions, by step.

    Attributes:
        seconds: By step.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def wrap(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with a timer around it."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            named = step
            if step == "scores of val":
                named = {"train": "scores of train for familiarity"}.get(
                    args[1], f"scores of {args[1]}"
                )
            self._inner.append(0.0)
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - started
                self.seconds[named] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent

        return timed

    def install(self) -> None:
        """Put the timers around the functions of `STEPS`."""
        for step, places in STEPS.items():
            for place in places:
                module, _, path = place.partition(":")
                *outer, name = path.split(".")
                owner: Any = importlib.import_module(module)
                for each in outer:
                    owner = getattr(owner, each)
                setattr(owner, name, self.wrap(step, getattr(owner, name)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", nargs="+", default=["train=probe", "train=probe", ""])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ZOO_HOME"] = folder
        plugins.get("efficientnet_lite0")  # writes the index of backbones
        rows = []
        for n, given in enumerate(args.runs):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found = pool.submit(measure, args.data, Path(folder) / "runs" / str(n), given)
                rows.append((given or "defaults", *found.result()))
    print(table(rows))


def measure(data: Path, out: Path, given: str) -> tuple[float, dict[str, float]]:
    """Run `zoo.finetune`, and return the seconds of the run and of its steps."""
    torch.set_num_threads(1)
    allocator.tune()
    timers = Timers()
    timers.install()
    started = time.process_time()
    zoo.finetune(
        data, out=out, device="cpu", **typed(dict(each.split("=", 1) for each in given.split()))
    )
    return time.process_time() - started, dict(timers.seconds)


def typed(fields: dict[str, str]) -> dict[str, Any]:
    """Return the fields with numbers as numbers."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        try:
            found[name] = float(value) if "." in value else int(value)
        except ValueError:
            found[name] = value
    return found


def table(rows: list[tuple[str, float, dict[str, float]]]) -> str:
    """Return a table of the seconds of each step, a column for each run."""
    lines = [["step", *(name for name, _, _ in rows)], ["---"] * (1 + len(rows))]
    lines += [[step, *(f"{spent.get(step, 0):.2f}" for _, _, spent in rows)] for step in STEPS]
    sums = [sum(spent.values()) for _, _, spent in rows]
    lines += [
        ["all of these", *(f"{each:.2f}" for each in sums)],
        [
            "all without the test images",
            *(
                f"{each - spent.get('scores of test', 0):.2f}"
                for each, (_, _, spent) in zip(sums, rows, strict=True)
            ),
        ],
        ["the run", *(f"{whole:.2f}" for _, whole, _ in rows)],
        [
            "share of the run without them",
            *(
                f"{added / (whole - added):.0%}"
                for added, (_, whole, _) in zip(sums, rows, strict=True)
            ),
        ],
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
