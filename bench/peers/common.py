"""What the peers share: arguments, the lines by which they report, the memory allocator's setting.

Import it before torch: where BENCH_ALLOCATOR is set it changes how glibc allocates from then on.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import sys
import time
from pathlib import Path

#: When the process was started, as compare.py says; by hand: when this module was imported.
STARTED = float(os.environ.get("BENCH_STARTED", time.time()))

if os.environ.get("BENCH_ALLOCATOR"):
    # What zoo does on its own: keep freed memory instead of giving it back to be asked for again.
    libc = ctypes.CDLL(None)
    for option, value in ((-4, 0), (-1, 1 << 28), (-2, 64 << 20)):  # MMAP_MAX, TRIM_THRESHOLD, PAD
        if not libc.mallopt(option, value):
            sys.exit(f"mallopt({option}, {value}) was refused")


def arguments() -> argparse.Namespace:
    """The settings of a run, the same flags for each peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="has train/CLASS and val/CLASS")
    parser.add_argument("--weights", required=True, help="folder that timm.save_for_hf wrote")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def report(
    *, images: int, train_seconds: float, val_accuracy: float | None, t: float | None = None
) -> None:
    """Print where training stands after an epoch and its validation.

    Args:
        images: Training images seen so far, repeats counted.
        train_seconds: Spent on training them, without validation.
        val_accuracy: From 0 to 1.
        t: Seconds since the process started; default: now.
    """
    say(
        t=time.time() - STARTED if t is None else t,
        images=images,
        train_seconds=train_seconds,
        # Some compute it in float32, where 0.9 is a little less.
        val_accuracy=None if val_accuracy is None else round(val_accuracy, 6),
    )


def finish(who: int = resource.RUSAGE_SELF) -> None:
    """Print the peak of resident memory; processes that load images are not in it."""
    unit = 1 if sys.platform == "darwin" else 1024
    say(t=time.time() - STARTED, peak_mb=resource.getrusage(who).ru_maxrss * unit / 1e6)


def say(**values: float | None) -> None:
    """Print a line of the protocol."""
    print(json.dumps(values), flush=True)
