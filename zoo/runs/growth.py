"""How the accuracy of a run's probe grows with the number of training images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

#: Maximum number of parts that are read.
_MOST = 20


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Accuracy on the val images of probes that are fitted to parts of the train images.

    Attributes:
        images: Number of train images of each part, in ascending order; the last is all of them.
        accuracy: For each part, the accuracy of each probe, 0..1; probes differ in the images.
        curve: (a, b, c) of the fitted error `a + b * images ** -c`; None with too few parts.
        gain: Expected increase of accuracy with twice as many images, 0..1, and the limits of its
            95 % interval; None with too few parts.
    """

    images: tuple[int, ...]
    accuracy: tuple[tuple[float, ...], ...]
    curve: tuple[float, float, float] | None = None
    gain: tuple[float, float, float] | None = None

    @classmethod
    def checked(cls, values: Any) -> Growth:
        """Create one from values of an untrusted source.

        Raises:
            ValueError, TypeError: They are no growth of an accuracy.
        """
        growth = cls(**values)
        parts = len(growth.images)
        numbers = [*growth.images, *(n for each in growth.accuracy for n in each)]
        for optional in (growth.curve, growth.gain):
            if optional is not None:
                if len(optional) != 3:
                    raise ValueError("a curve and a gain are three numbers")
                numbers += optional
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            raise ValueError("not all are finite numbers")
        if not 1 <= parts <= _MOST or len(growth.accuracy) != parts or not all(growth.accuracy):
            raise ValueError("there must be an accuracy for each number of images")
        if not all(1 <= n <= 1e12 for n in growth.images) or max(numbers) > 1e12:
            raise ValueError("a number is out of range")
        return growth

    def __post_init__(self) -> None:
        """Convert the lists that JSON has in place of tuples."""
        object.__setattr__(self, "images", tuple(self.images))
        object.__setattr__(self, "accuracy", tuple(tuple(each) for each in self.accuracy))
        for name in ("curve", "gain"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
