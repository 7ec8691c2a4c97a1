"""The variant of a backbone for images of one or four channels instead of three."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo import plugins
from zoo.backbone import CHANNELS, Backbone
from zoo.errors import OptionError, PluginError
from zoo.io.text import listed

#: Name of the option of backbones.
IN_CHANS = "in_chans"

#: Channels of the images that pretrained weights are for.
_RGB = 3


def with_channels(backbone: Backbone, other: Backbone, channels: int) -> Backbone:
    """Return a backbone for another number of channels, its pretrained weights adapted by `adapt`.

    Returns:
        `other`, with mean and std as often as there are channels, in turn, and with weights, also
        those of files, converted to `channels` unless they are for them already.

    Raises:
        OptionError: If images can't have that many channels, or the weights can't be adapted.
        PluginError: If the network can't be built.
    """
    own = backbone.preprocess
    refusal = f"backbone {backbone.name} can't be built with {IN_CHANS}={channels}"
    if channels not in CHANNELS:
        raise OptionError(f"{refusal}: images have {', '.join(map(str, CHANNELS))} channels")
    if own.channels != _RGB:
        raise OptionError(f"{refusal}: its weights are for images of {own.channels}")
    before, after = _shapes(backbone), _shapes(other)
    changed = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    if not changed:
        raise OptionError(f"{refusal}: its network is the same then")
    unfit = [k for k in changed if not _fits(before.get(k, ()), after.get(k, ()), channels)]
    if unfit:
        raise OptionError(f"{refusal}: its weights can't be adapted: {listed(unfit)}")
    convert = functools.partial(_convert, backbone, {k: before[k] for k in changed}, channels)
    repeated: dict[str, Any] = {
        name: tuple(getattr(own, name)[n % _RGB] for n in range(channels))
        for name in ("mean", "std")
    }
    return replace(
        other,
        build=functools.partial(_build, backbone, other, changed, channels),
        preprocess=replace(other.preprocess, **repeated),
        convert=convert,
        parameters=None,
        macs=None,
    )


def adapt(weight: Tensor, channels: int) -> Tensor:
    """Adapt weights of a convolution of RGB images, as timm's `adapt_input_conv` does.

    For one channel, they are summed over the colours; for more, repeated, and scaled so that
    outputs keep their size.

    Args:
        weight: (O, 3, H, W), or (O, k * 3, H, W) if k pixels are stacked before the convolution.
        channels: Number of channels.
    """
    values = weight.float()
    if channels == 1:
        outputs, inputs, *kernel = values.shape
        by_colour = values.reshape(outputs, inputs // _RGB, _RGB, *kernel)
        return by_colour.sum(dim=2).to(weight.dtype)
    repeated = values.repeat(1, -(-channels // _RGB), 1, 1)[:, :channels]
    return (repeated * (_RGB / channels)).to(weight.dtype)


def _shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    try:
        with torch.device("meta"):
            model = plugins.build(backbone, None, False)
    except PluginError:
        # Some networks read values while they are built, which meta tensors do not have.
        model = plugins.build(backbone, None, False)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _fits(before: tuple[int, ...], after: tuple[int, ...], channels: int) -> bool:
    return (
        len(before) == len(after) == 4
        and (before[0], *before[2:]) == (after[0], *after[2:])
        and before[1] * channels == after[1] * _RGB
        # The order of channels and stacked pixels is known for a sum only.
        and (channels == 1 or before[1] == _RGB)
    )


def _build(
    backbone: Backbone,
    other: Backbone,
    stems: list[str],
    channels: int,
    num_classes: int | None,
    pretrained: bool,
) -> nn.Module:
    model = other.build(num_classes, False)
    if pretrained:
        state_dict = dict(backbone.build(num_classes, True).state_dict())
        adapted = {name: adapt(state_dict[name], channels) for name in stems}
        model.load_state_dict({**state_dict, **adapted})
    return model


def _convert(
    backbone: Backbone,
    stems: dict[str, tuple[int, ...]],
    channels: int,
    state_dict: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Convert a file as for RGB images, and adapt it unless it is of a run with `channels`."""
    ready = {
        name: state_dict[name]
        for name, shape in stems.items()
        if name in state_dict and state_dict[name].shape[1:2] != shape[1:2]
    }
    # The plugin's conversion may compare or resample tensors at their shapes for RGB.
    stubs = {name: tensor.new_zeros(stems[name]) for name, tensor in ready.items()}
    converted = plugins.convert(backbone, {**state_dict, **stubs} if ready else state_dict)
    adapted = {
        name: ready[name] if name in ready else adapt(converted[name], channels)
        for name, shape in stems.items()
        if name in converted and tuple(converted[name].shape) == shape
    }
    return {**converted, **adapted}
