"""zoo for bench/transfer.py: `zoo.finetune` in this process, with an empty cache for each run."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import numpy as np

import zoo
from zoo.events import EpochEnd, ignore

if TYPE_CHECKING:
    from transfer import Job, Predict, Watch


def train(job: Job, watch: Watch, **fields: object) -> Predict:
    """Fine-tune, report each epoch to `watch`; return the function that predicts test images."""
    data = job.scratch / "data"  # train and val, without test
    for split in ("train", "val"):
        shutil.copytree(job.data / split, data / split, copy_function=_link)
    os.environ["ZOO_HOME"] = str(job.scratch / "home")

    def listen(event: object) -> None:
        if isinstance(event, EpochEnd):
            watch.point(event.metrics["val_accuracy"], event.metrics["val_loss"])
        else:
            ignore(event)

    watch.restart()
    run = zoo.finetune(
        data,
        out=job.scratch / "run",
        seed=job.seed,
        image_size=job.image_size,
        device="cpu",
        listen=listen,
        **fields,
    )
    watch.stop()
    if run.class_names != job.classes:
        raise ValueError(f"zoo orders the classes otherwise: {run.class_names}")

    def predict(_state) -> np.ndarray:
        predictions = run.predict(job.test_files, top_k=len(job.classes))
        found = [dict(image.top) for image in predictions]
        return np.array([[image[name] for name in job.classes] for image in found])

    return predict


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)
