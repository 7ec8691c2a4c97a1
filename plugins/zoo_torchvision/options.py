"""Options of torchvision's networks: dropout, stochastic depth and channels of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zoo
import zoo.backbone

if TYPE_CHECKING:
    from torch import nn

#: Models that convert the colours of images to the values of their original weights.
COLOURS = ("googlenet", "inception")

#: Rate of dropout in torchvision's own training, by prefix of the name of a model that takes it.
DROPOUT = {
    "alexnet": 0.5,
    "efficientnet_b0": 0.2,
    "efficientnet_b1": 0.2,
    "efficientnet_b2": 0.3,
    "efficientnet_b3": 0.3,
    "efficientnet_b4": 0.4,
    "efficientnet_b5": 0.4,
    "efficientnet_b6": 0.5,
    "efficientnet_b7": 0.5,
    "efficientnet_v2_s": 0.2,
    "efficientnet_v2_m": 0.3,
    "efficientnet_v2_l": 0.4,
    "googlenet": 0.2,
    "inception_v3": 0.5,
    "mnasnet": 0.2,
    "mobilenet": 0.2,
    "squeezenet": 0.5,
    "swin": 0.0,
    "vgg": 0.5,
    "vit": 0.0,
}

#: Rate of stochastic depth in torchvision's own training, likewise.
STOCHASTIC_DEPTH = {
    "convnext_tiny": 0.1,
    "convnext_small": 0.4,
    "convnext_base": 0.5,
    "convnext_large": 0.5,
    "efficientnet": 0.2,
    "maxvit_t": 0.2,
    "swin_t": 0.2,
    "swin_s": 0.3,
    "swin_b": 0.5,
    "swin_v2_t": 0.2,
    "swin_v2_s": 0.3,
    "swin_v2_b": 0.5,
}


def options_of(name: str) -> dict[str, zoo.Option]:
    """Return `zoo.Backbone.options` of a torchvision model."""
    declared = {
        "dropout": ("Rate of dropout.", DROPOUT),
        "stochastic_depth_prob": (
            "Stochastic depth: rate of the deepest block.",
            STOCHASTIC_DEPTH,
        ),
    }
    channels = {} if name.startswith(COLOURS) else {"in_chans": zoo.backbone.IN_CHANS}
    return channels | {
        option: zoo.Option(kind=float, default=default, minimum=0, maximum=1, help=text)
        for option, (text, defaults) in declared.items()
        for start, default in defaults.items()
        if name.startswith(start)
    }


def set_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution, which takes the images, by one for other channels."""
    from torch import nn

    path, old = next((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        kernel_size=old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    model.set_submodule(path, new)


def set_stochastic_depth(model: nn.Module, rate: float) -> None:
    """Set the rate of stochastic depth of a model whose builder does not take it.

    It increases linearly from 0 in the first block to `rate` in the last.
    """
    from torchvision.ops import StochasticDepth

    layers = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    highest = max(layer.p for layer in layers)
    for layer in layers:
        layer.p *= rate / highest
