"""Find the classifier head by its declared paths, replace it and initialise it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from zoo import plugins
from zoo.backbone import Backbone, Head
from zoo.errors import PluginError

HeadInit = Literal["normal", "xavier_uniform", "library"]


def in_head(name: str, head_paths: tuple[str, ...]) -> bool:
    """Return whether a parameter or buffer lies under one of the paths, by whole components."""
    return any(name.startswith(f"{path}.") for path in head_paths)


def head_leaves(model: nn.Module, backbone: Backbone) -> dict[str, nn.Module]:
    """Return the head's leaf layers by path.

    Raises:
        PluginError: If a declared path does not exist in the model.
    """
    leaves = {}
    for path in backbone.head_paths:
        try:
            leaves[path] = model.get_submodule(path)
        except AttributeError as error:
            raise PluginError(
                f"{plugins.describe(backbone)} declares head {path!r}, "
                f"which its model does not have"
            ) from error
    return leaves


def ensure_head(model: nn.Module, backbone: Backbone, num_classes: int) -> None:
    """Replace the head's leaves if the model's factory did not build them for `num_classes`.

    A leaf that has that many outputs stays. Any other is replaced by a new one of the same type,
    kernel and bias, and the model's `num_classes` attribute is updated.

    Raises:
        PluginError: If zoo can't replace a leaf of this type and the plugin declares no `replace`.
    """
    for path, leaf in head_leaves(model, backbone).items():
        if _fits(leaf, backbone, path, num_classes):
            continue
        parent_path, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent_path), child, _fresh(leaf, backbone, path, num_classes))
        if hasattr(model, "num_classes"):
            model.num_classes = num_classes  # type: ignore[assignment]


def initialise_head(model: nn.Module, backbone: Backbone, how: HeadInit) -> None:
    """Initialise the head's weights.

    Args:
        model: The model, with its new head.
        backbone: Declares where the head is.
        how: `normal`: weights N(0, 0.01), biases 0, so that all classes start equally likely.
            `xavier_uniform`: weights as in Glorot and Bengio (2010), biases as in the library.
            `library`: as in the backbone's own library. Some of these, meant for a thousand
            classes, give a head for two classes initial logits in the tens.
    """
    for leaf in head_leaves(model, backbone).values():
        for name, parameter in leaf.named_parameters():
            if how == "xavier_uniform" and parameter.ndim >= 2:
                nn.init.xavier_uniform_(parameter)
            elif how == "normal" and parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.01)
            elif how == "normal" and name.rpartition(".")[2] == "bias":
                nn.init.zeros_(parameter)


def _fits(leaf: nn.Module, backbone: Backbone, path: str, num_classes: int) -> bool:
    if isinstance(backbone.head, Head) and backbone.head.replace is not None:
        return False
    width = getattr(leaf, "out_features", getattr(leaf, "out_channels", None))
    if width is not None:
        return bool(width == num_classes)
    # A leaf of another type fits if the factory honours the count: another count changes its shape.
    other = plugins.build(backbone, num_classes + 1, False).get_submodule(path)
    return [p.shape for p in leaf.parameters()] != [p.shape for p in other.parameters()]


def _fresh(leaf: nn.Module, backbone: Backbone, path: str, num_classes: int) -> nn.Module:
    if isinstance(backbone.head, Head) and backbone.head.replace is not None:
        with plugins.blame(backbone, f"could not replace its head {path!r}"):
            return backbone.head.replace(leaf, num_classes)
    if isinstance(leaf, nn.Linear):
        return nn.Linear(leaf.in_features, num_classes, bias=leaf.bias is not None)
    if isinstance(leaf, nn.Conv2d) and leaf.groups == 1:
        return nn.Conv2d(
            leaf.in_channels,
            num_classes,
            kernel_size=leaf.kernel_size,  # type: ignore[arg-type]
            stride=leaf.stride,  # type: ignore[arg-type]
            padding=leaf.padding,  # type: ignore[arg-type]
            dilation=leaf.dilation,  # type: ignore[arg-type]
            bias=leaf.bias is not None,
            padding_mode=leaf.padding_mode,
        )
    raise PluginError(
        f"{plugins.describe(backbone)}: its head has {path!r}, a {type(leaf).__name__} that no "
        f"class count changes: let `build` honour num_classes, or declare zoo.Head(paths=..., "
        f"replace=...), or, if it is a pretrained layer before the classifier, zoo.Head(neck=...)"
    )


@torch.no_grad()
def scale_head(model: nn.Module, backbone: Backbone, scale: float) -> None:
    """Multiply the head's weights, and therefore its logits, by a factor."""
    for leaf in head_leaves(model, backbone).values():
        for parameter in leaf.parameters(recurse=False):
            parameter.mul_(scale)
