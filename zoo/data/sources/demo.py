"""The data of the demo: scikit-learn's 1,797 real handwritten digits, which come with it."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
from PIL import Image

from zoo.data.sample import Sample
from zoo.data.sources.source import Part

#: Pictures of 8 x 8 pixels gain nothing from more input pixels than these.
IMAGE_SIZE = 64


class DemoSource:
    """UCI's optical recognition of handwritten digits test set, as 8 x 8 grey pictures."""

    name = "the demo's digits"
    splits = ("train",)

    def read(self, split: str) -> Part:
        """All of them."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        samples = [
            Sample(
                name=f"{label}/{index:04}.png",
                labels=(str(label),),
                load=partial(_png, (pixels * (255 / 16)).round().astype(np.uint8)),
            )
            for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True))
        ]
        return Part(name=self.name, samples=samples)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
