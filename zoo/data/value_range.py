"""Value range of a dataset's images with more than 8 bits per channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zoo.data.image import ValueRange

if TYPE_CHECKING:
    from zoo.data.check.examine import Examined


def common_range(examined: Iterable[Examined]) -> ValueRange | None:
    """Return the values that map to 0 and 255 in all deep images of a dataset; None without any.

    Cameras and scanners store 10 or 12 bits in 16: scaled by data type such images are nearly
    black, and scaled individually they lose differences in brightness. The upper end is the largest
    value of as many bits as the dataset needs (1,023 for values up to 1,020), or 1 for floats up to
    1; for negative values and values beyond 16 bits it is the largest value.
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
