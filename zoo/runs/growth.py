"""How the accuracy of a run's probe grows with the number of training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter

#: Maximum number of parts that are read.
_MOST = 20

_LARGE = 10**12

_Number = Annotated[float, Field(le=_LARGE, allow_inf_nan=False)]


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

    images: Annotated[tuple[Annotated[int, Field(ge=1, le=_LARGE)], ...], Field(max_length=_MOST)]
    accuracy: tuple[Annotated[tuple[_Number, ...], Field(min_length=1)], ...]
    curve: tuple[_Number, _Number, _Number] | None = None
    gain: tuple[_Number, _Number, _Number] | None = None

    @classmethod
    def checked(cls, values: object) -> Growth:
        """Create one from values of an untrusted source.

        Raises:
            ValueError: They are no growth of an accuracy.
        """
        growth = TypeAdapter(Growth).validate_python(values)
        if not len(growth.images) == len(growth.accuracy) > 0:
            raise ValueError("there must be an accuracy for each number of images")
        return growth
