"""Another input size for a backbone that is built for one."""

from __future__ import annotations

from dataclasses import replace

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import SizeError


def needs_resizing(backbone: Backbone, size: int | tuple[int, int] | None) -> bool:
    """Whether images of that size need the backbone built for them.

    Args:
        backbone: As declared, or resized already.
        size: Side of the square input in pixels, or (height, width); None means its own.
    """
    own = backbone.preprocess
    wanted = (size, size) if isinstance(size, int) else size
    return own.fixed_size and wanted not in (None, own.height_width)


def resized(backbone: Backbone, size: int | tuple[int, int]) -> Backbone:
    """The backbone for another input size, its weights resampled as its library does.

    Args:
        backbone: As declared, of fixed size.
        size: Side of the square input in pixels; (height, width) is refused.

    Raises:
        SizeError: It can't be; the message says why.
        PluginError: The plugin's code fails otherwise.
    """
    own = "{} x {}".format(*backbone.preprocess.height_width)
    refusal = f"backbone {backbone.name} takes {own} pixels and can't be built for {size}"
    if backbone.resized is None:
        raise SizeError(f"{refusal}: it takes no other size")
    if not isinstance(size, int):
        raise SizeError(f"{refusal}: it takes other sizes only if they are square")
    with plugins.blame(backbone, f"could not be resized to {size} pixels"):
        try:
            return replace(backbone.resized(size), name=backbone.name)
        except ValueError as error:
            raise SizeError(f"{refusal}: {error}") from error
