"""Measure candidates for the defaults: val accuracy by data set, setting and seed.

python bench/defaults.py --data photos --data other_photos --seeds 3 > defaults.csv

Each line is a whole `zoo.finetune`. docs/defaults.md holds the figures that the defaults rest on.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from pathlib import Path

import zoo

CANDIDATES: dict[str, dict[str, object]] = {
    "probe": {"train": "probe"},
    "probe, sgd 1e-3 x1": {"train": "probe+finetune", "lr": 1e-3, "head_lr_mult": 1.0},
    "probe, sgd 5e-4 x1": {"train": "probe+finetune", "lr": 5e-4, "head_lr_mult": 1.0},
    "sgd 1e-4 x30": {"optimizer": "sgd", "lr": 1e-4, "head_lr_mult": 30.0},
    "sgd 5e-4 x10": {"optimizer": "sgd", "lr": 5e-4, "head_lr_mult": 10.0},
    "sgd 5e-4 x30": {"optimizer": "sgd", "lr": 5e-4, "head_lr_mult": 30.0},
    "sgd 1e-3 x10": {"optimizer": "sgd", "lr": 1e-3, "head_lr_mult": 10.0},
    "sgd 1e-3 x3": {"optimizer": "sgd", "lr": 1e-3, "head_lr_mult": 3.0},
    "adamw 1e-4 x10": {"optimizer": "adamw", "lr": 1e-4, "head_lr_mult": 10.0},
    "adamw 3e-5 x80": {"optimizer": "adamw", "lr": 3e-5, "head_lr_mult": 80.0},
    "adamw 3e-5 x80 bn train": {
        "optimizer": "adamw",
        "lr": 3e-5,
        "head_lr_mult": 80.0,
        "batch_norm": "train",
    },
    "adamw 3e-5 x80 library head": {
        "optimizer": "adamw",
        "lr": 3e-5,
        "head_lr_mult": 80.0,
        "head_init": "library",
    },
    "frozen sgd 3e-3": {
        "optimizer": "sgd",
        "lr": 5e-5,
        "head_lr_mult": 60.0,
        "freeze": "backbone",
    },
    "frozen adamw 1e-3": {
        "optimizer": "adamw",
        "lr": 1e-5,
        "head_lr_mult": 100.0,
        "freeze": "backbone",
    },
}


def main() -> None:
    """Run every candidate on every data set with every seed; one CSV row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="append", type=Path, default=[], help="default: the demo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--only", default="", help="candidates whose name holds this text")
    args = parser.parse_args()
    writer = csv.writer(sys.stdout)
    writer.writerow(["data", "candidate", "seed", "val_accuracy", "epochs_accuracy", "seconds"])
    for seed in range(args.seeds):
        for data in args.data or [None]:
            for name, fields in CANDIDATES.items():
                if args.only not in name:
                    continue
                accuracies: list[float] = []

                def listen(event: object, accuracies: list[float] = accuracies) -> None:
                    if hasattr(event, "val_accuracy"):
                        accuracies.append(event.val_accuracy)

                with tempfile.TemporaryDirectory() as folder:
                    started = time.perf_counter()
                    zoo.finetune(
                        data,
                        out=Path(folder) / "run",
                        seed=seed,
                        listen=listen,
                        **{"epochs": args.epochs, "train": "finetune", **fields},
                    )
                    seconds = time.perf_counter() - started
                writer.writerow(
                    [
                        data.name if data else "demo",
                        name,
                        seed,
                        f"{max(accuracies):.4f}",
                        " ".join(f"{a:.3f}" for a in accuracies),
                        f"{seconds:.0f}",
                    ]
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
