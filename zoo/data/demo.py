"""The data of the demo: scikit-learn's 1,797 real handwritten digits, which come with it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from zoo.data.split import Sample, Splits, stratified_split

#: Pictures of 8 x 8 pixels gain nothing from more input pixels than these.
IMAGE_SIZE = 64


def demo_splits(*, val_split: float, seed: int) -> Splits:
    """UCI's optical recognition of handwritten digits test set, as 8 x 8 grey pictures."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    samples = [
        Sample(
            name=f"{label}/{index:04}.png",
            labels=(int(label),),
            image=Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8)),
        )
        for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True))
    ]
    train, val = stratified_split(samples, val_split, seed)
    return Splits(
        class_names=tuple(str(name) for name in digits.target_names),
        train=tuple(train),
        val=tuple(val),
    )
