"""Whether the test images of a run come from where its other images come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

#: p-value below which the test images count as shifted: one run in a hundred by chance.
SHIFTED = 0.01

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Result of a classifier two-sample test between test images and others of the same classes.

    Attributes:
        known: The other images: `val` or `train`.
        separation: Share of the pairs of a test image and another one of its class in which the
            classifier takes the right one for the test image; 0.5 by chance.
        p: p-value of a permutation test.
    """

    known: Annotated[str, Field(pattern="^(val|train)$")]
    separation: _Share
    p: _Share

    @property
    def found(self) -> bool:
        """Whether the test images differ beyond chance."""
        return self.p < SHIFTED


def describe_shift(shift: Shift) -> str:
    """Describe a shift that was found, in a sentence."""
    return (
        f"test images differ from the {shift.known} images of the same classes: a classifier that "
        f"sees features only tells {shift.separation:.0%} of pairs apart (50% by chance, p = "
        f"{shift.p:.2g}); they may be from another source, so figures on one need not hold for the "
        f"other"
    )
