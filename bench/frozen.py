"""What it saves to compute the frozen part of a network once: CPU seconds of whole runs.

    python bench/frozen.py DATA [--freeze 4 8 12] [--epochs 6] [--views 2]

Each row is `zoo finetune` with that part frozen, without caches (`cache_size=0`), with empty ones,
and a second time. The runs of a row give the same weights. Each is a process of its own with one
thread for computing, imports included. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors.torch
import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--freeze", nargs="+", default=["4", "8", "12"])
    parser.add_argument("--epochs", default="6")
    parser.add_argument("--views", default="2")
    args = parser.parse_args()
    print("| frozen depths | without caches | with caches | again | ratio | ratio, again |")
    print("|---|---|---|---|---|---|")
    for freeze in args.freeze:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--data", args.data, "--backbone", args.backbone, "--freeze", freeze]
            options += ["--epochs", args.epochs, "--views", args.views, "--train", "finetune"]
            runs = [Path(folder) / name for name in ("without", "first", "again")]
            spent = [
                seconds(Path(folder), [*options, "--out", run, *more])
                for run, more in zip(runs, (["--cache-size", "0"], [], []), strict=True)
            ]
            weights = [safetensors.torch.load_file(run / "model.safetensors") for run in runs]
        first, *others = weights
        for other in others:
            if any(not torch.equal(first[key], other[key]) for key in first):
                raise SystemExit(f"frozen up to {freeze}: the runs differ")
        ratios = [f"{spent[0] / each:.2f}" for each in spent[1:]]
        cells = [freeze, *(f"{each:.0f} s" for each in spent), *ratios]
        print(f"| {' | '.join(cells)} |", flush=True)


def seconds(home: Path, options: list[object]) -> float:
    """Return the CPU seconds of `zoo finetune` with these options."""
    environment = {**os.environ, "ZOO_HOME": str(home / "home"), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "zoo", "finetune", *map(str, options), "--device", "cpu"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
