"""Parameter groups: head and backbone, each trainable parameter in exactly one."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import PluginError
from zoo.model.head import in_head


def split_parameters(
    model: nn.Module, backbone: Backbone
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """All parameters as (backbone group, head group), frozen ones too, tied ones once."""
    of_backbone: list[nn.Parameter] = []
    of_head: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (of_head if in_head(name, backbone.head_paths) else of_backbone).append(parameter)
    return of_backbone, of_head


def parameter_groups(
    model: nn.Module,
    backbone: str | Backbone,
    *,
    lr: float,
    head_lr_mult: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer: the backbone at `lr`, the head at `lr * head_lr_mult`.

    Args:
        model: As `zoo.build` gives it.
        backbone: Its name or declaration, which says where the head is.
        lr: The backbone's learning rate.
        head_lr_mult: The head's learning rate divided by the backbone's.
        weight_decay: Of both groups.

    Returns:
        Dicts with `name` ("backbone", "head"), `params`, `lr` and `weight_decay`. Parameters that
        don't require gradients are in none of them; a group without parameters is left out.

    Raises:
        PluginError: The head that the backbone declares has no parameters.
    """
    if isinstance(backbone, str):
        backbone = plugins.get(backbone)
    of_backbone, of_head = split_parameters(model, backbone)
    if not of_head:
        raise PluginError(
            f"backbone {backbone.name}: its head ({', '.join(backbone.head_paths)}) "
            f"has no parameters"
        )
    groups = [
        {"name": "backbone", "params": of_backbone, "lr": lr},
        {"name": "head", "params": of_head, "lr": lr * head_lr_mult},
    ]
    trainable: list[dict[str, Any]] = [
        {**g, "params": [p for p in g["params"] if p.requires_grad], "weight_decay": weight_decay}  # type: ignore[attr-defined]
        for g in groups
    ]
    return [g for g in trainable if g["params"]]
