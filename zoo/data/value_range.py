"""The range of values of a data set's images with more than 8 bits a channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zoo.data.image import ValueRange

if TYPE_CHECKING:
    from zoo.data.check.examine import Examined


def common_range(examined: Iterable[Examined]) -> ValueRange | None:
    """The values that become 0 and 255 in all deep images of a data set; None if none is deep.

    Cameras and scanners store 10 or 12 bits in 16: scaled by their type such images are nearly
    black, and scaled one by one they lose what tells a dark image from a light one. The upper end
    is the largest value of as many bits as the data set needs (1,023 for values up to 1,020), 1 for
    floats up to 1; values beyond 16 bits are taken as they are.

    Args:
        examined: Of the train images.
    """
    deep = [each for each in examined if each.extremes is not None]
    extremes = [each.extremes for each in deep if each.extremes is not None]
    if not extremes:
        return None
    low = min(0.0, *(low for low, _ in extremes))
    high = max(high for _, high in extremes)
    if all(each.mode == "F" for each in deep) and high <= 1:
        return low, 1.0
    if low == 0 and high <= 65535:
        return low, float(2 ** max(8, int(high).bit_length()) - 1)
    return low, max(high, low + 1)
