"""fastai for bench/transfer.py: `vision_learner(...).fine_tune(...)`, presized as in its book.

An epoch of the head alone, then all layers with discriminative rates and the one-cycle policy.
Images are resized to about twice the input (its book: 460 for 224) before `aug_transforms`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import fastai.callback.schedule  # noqa: F401  (gives Learner its fine_tune)
import numpy as np
import torch
from fastai.learner import Callback
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import vision_learner

if TYPE_CHECKING:
    from transfer import Job, Predict, Watch


class Tell(Callback):
    """Collect what validation predicts, and tell `watch` after each epoch."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def before_validate(self) -> None:
        self.probabilities, self.labels = [], []

    def after_pred(self) -> None:
        if not self.training:
            self.probabilities.append(self.pred.double().softmax(1).numpy())
            self.labels.append(self.y.numpy())

    def after_epoch(self) -> None:
        probabilities, labels = np.concatenate(self.probabilities), np.concatenate(self.labels)
        self.watch.epoch(probabilities, labels, self.learn.model.state_dict())


def train(job: Job, watch: Watch) -> Predict:
    """Fine-tune, report each epoch to `watch`; return the function that predicts test images."""
    set_seed(job.seed)
    loaders = ImageDataLoaders.from_folder(
        job.data,
        train="train",
        valid="val",
        bs=job.batch_size,
        val_bs=job.batch_size,
        num_workers=0,
        item_tfms=Resize(job.image_size * 460 // 224),
        batch_tfms=aug_transforms(size=job.image_size, min_scale=0.75),
        device=torch.device("cpu"),
    )
    if tuple(loaders.vocab) != job.classes:
        raise ValueError(f"fastai orders the classes otherwise: {loaders.vocab}")
    # The normalisation that the weights were made with is added by vision_learner.
    learner = vision_learner(loaders, f"local-dir:{job.weights}", cbs=Tell(watch), path=job.scratch)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(job.epochs - 1, base_lr=job.lr, freeze_epochs=1)
    learner.remove_cbs(Tell)
    test = loaders.test_dl(job.test_files)

    def predict(state) -> np.ndarray:
        learner.model.load_state_dict(state)
        with learner.no_bar():
            return learner.get_preds(dl=test)[0].double().numpy()

    return predict
