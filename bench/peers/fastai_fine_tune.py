"""fastai as its documentation has it: `vision_learner(...).fine_tune(...)`.

The first epoch trains the head alone, the others all layers with discriminative rates and the
one-cycle policy. Crops as in its book (`RandomResizedCrop(224, min_scale=0.5)`) and flips.
"""

import time

import common
import fastai.callback.schedule  # noqa: F401  (gives Learner its fine_tune)
from fastai.learner import Callback
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip, RandomResizedCrop
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import vision_learner


class Report(Callback):
    """Report after each epoch; `after_train` comes between training and validation."""

    images = 0
    train_seconds = 0.0

    def before_train(self) -> None:
        self.started = time.perf_counter()

    def after_batch(self) -> None:
        if self.training:
            self.images += len(self.y)

    def after_train(self) -> None:
        self.train_seconds += time.perf_counter() - self.started

    def after_epoch(self) -> None:
        _epoch, _train_loss, _val_loss, val_accuracy = self.recorder.log[:4]
        common.report(
            images=self.images, train_seconds=self.train_seconds, val_accuracy=val_accuracy
        )


def main() -> None:
    args = common.arguments()
    set_seed(args.seed)
    loaders = ImageDataLoaders.from_folder(
        args.data,
        train="train",
        valid="val",
        bs=args.batch_size,
        num_workers=args.workers,
        item_tfms=RandomResizedCrop(224, min_scale=0.5),
        batch_tfms=Flip(),
    )
    # The normalisation that the weights were made with is added by vision_learner.
    learner = vision_learner(
        loaders, f"local-dir:{args.weights}", metrics=accuracy, cbs=Report(), path=args.data
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(args.epochs - 1, base_lr=args.lr, freeze_epochs=1)
    common.finish()


if __name__ == "__main__":
    main()
