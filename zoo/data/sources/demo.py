"""Demo dataset: the 1,797 handwritten digits that are included in scikit-learn."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
from PIL import Image

from zoo.data.sample import Sample
from zoo.data.sources.source import Part

#: Input size in pixels; images of 8 x 8 pixels gain nothing from a larger one.
IMAGE_SIZE = 64


class DemoSource:
    """Test set of UCI's optical recognition of handwritten digits: 8 x 8 greyscale images."""

    name = "the demo's digits"
    splits = ("train",)

    def read(self, split: str) -> Part:
        """Read all images."""
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
