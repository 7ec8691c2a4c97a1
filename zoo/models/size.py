"""Build a backbone of fixed input size for another size."""

from __future__ import annotations

from dataclasses import replace

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import SizeError


def needs_resizing(backbone: Backbone, size: int | tuple[int, int] | None) -> bool:
    """Return whether the backbone must be rebuilt for images of that size; None is its own."""
    own = backbone.preprocess
    wanted = (size, size) if isinstance(size, int) else size
    return own.fixed_size and wanted not in (None, own.height_width)


def resized(backbone: Backbone, size: int | tuple[int, int]) -> Backbone:
    """Return the backbone for another input size, with weights resampled as its library does.

    Raises:
        SizeError: If this is not possible; the message gives the reason.
        PluginError: If the plugin's code fails for another reason.
    """
    own = "{} x {}".format(*backbone.preprocess.height_width)
    refusal = f"backbone {backbone.name} takes {own} pixels and can't be built for {size}"
    if backbone.resized is None:
        raise SizeError(f"{refusal}: it takes no other size")
    if not isinstance(size, int):
        raise SizeError(f"{refusal}: it takes other sizes only if they are square")
    with plugins.blame(backbone, f"could not be resized to {size} pixels"):
        try:
            found = backbone.resized(size)
        except ValueError as error:
            raise SizeError(f"{refusal}: {error}") from error
    # The plugin declares it again, and need not know what a run keeps.
    return replace(found, name=backbone.name, definition=backbone.definition)
