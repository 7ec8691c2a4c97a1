"""Parameter groups: head and backbone, each trainable parameter in exactly one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import PluginError
from zoo.models.depth import Depths, depths, require_stages
from zoo.models.head import in_head

#: Layers whose parameters don't decay, whatever their shape; _NormBase is batch and instance norm.
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How one parameter trains, if it does.

    Attributes:
        name: Its name; the first of a tied one's.
        parameter: Itself.
        depth: Its depth in the backbone, 0 the stem's; None in the head.
        lr: Its learning rate.
        decays: Whether weight decay applies to it.
    """

    name: str
    parameter: nn.Parameter
    depth: int | None
    lr: float
    decays: bool


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
    layer_decay: float = 1.0,
    wd_on_norms: bool = False,
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer, with the learning rate and weight decay of each.

    The head learns at `lr * head_lr_mult`, the backbone's deepest depth (the neck, if there is one)
    at `lr`, each depth above it at `layer_decay` times the rate of the next deeper one: layer-wise
    decay as in BEiT (Bao et al., 2022). Biases, norms and layer scales don't decay (He et al.,
    2019): parameters of norm layers, and those of at most one number a channel.

    Args:
        model: As `zoo.build` gives it.
        backbone: Its name or declaration, which says where the head is and what lies how deep.
        lr: The learning rate of the backbone's deepest depth.
        head_lr_mult: The head's learning rate divided by `lr`.
        weight_decay: Of all but biases, norms and layer scales.
        layer_decay: The learning rate of a depth divided by that of the next deeper one.
        wd_on_norms: Whether biases, norms and layer scales decay too.

    Returns:
        Dicts with `name` ("backbone", "backbone 3 (no decay)", "head", ...), `params`, `lr`,
        `weight_decay`, `part` ("backbone" or "head") and `depth` (0 the stem's; None in the head,
        and where all depths have one rate). From the stem to the head. Parameters that don't
        require gradients are in none of them; tied ones are in the group of their first name.

    Raises:
        PluginError: The head that the backbone declares has no parameters; or `layer_decay` is not
            1 and the backbone's stages are not declared or don't cover every parameter.
    """
    if isinstance(backbone, str):
        backbone = plugins.get(backbone)
    groups: dict[tuple[bool, int, bool], dict[str, Any]] = {}
    settings = parameter_settings(
        model,
        backbone,
        depths(model, backbone),
        lr=lr,
        head_lr_mult=head_lr_mult,
        layer_decay=layer_decay,
        wd_on_norms=wd_on_norms,
    )
    for setting in settings:
        if not setting.parameter.requires_grad:
            continue
        part = "head" if setting.depth is None else "backbone"
        depth = None if layer_decay == 1 else setting.depth
        # Without any weight decay there is nothing to tell apart.
        decays = setting.decays or weight_decay == 0
        label = part if depth is None else f"{part} {depth}"
        group = groups.setdefault(
            (part == "head", depth or 0, not decays),
            {
                "name": label if decays else f"{label} (no decay)",
                "params": [],
                "lr": setting.lr,
                "weight_decay": weight_decay if decays else 0.0,
                "part": part,
                "depth": depth,
            },
        )
        group["params"].append(setting.parameter)
    ordered = [groups[key] for key in sorted(groups)]
    _check_complete(model, backbone, ordered)
    return ordered


def parameter_settings(
    model: nn.Module,
    backbone: Backbone,
    depths: Depths,
    *,
    lr: float,
    head_lr_mult: float,
    layer_decay: float,
    wd_on_norms: bool,
) -> list[Setting]:
    """How each parameter trains, frozen ones included, tied ones once.

    Raises:
        PluginError: As `parameter_groups`.
    """
    if layer_decay != 1:
        require_stages(model, depths, backbone, f"layer_decay = {layer_decay:g}")
    of_norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    deepest = len(depths) - 1
    settings = []
    for name, parameter in model.named_parameters():
        head = in_head(name, backbone.head_paths)
        depth = None if head else depths.of[name]
        factor = head_lr_mult if depth is None else layer_decay ** (deepest - depth)
        norm_or_bias = id(parameter) in of_norms or _one_a_channel(parameter)
        settings.append(
            Setting(
                name=name,
                parameter=parameter,
                depth=depth,
                lr=lr * factor,
                decays=wd_on_norms or not norm_or_bias,
            )
        )
    if all(setting.depth is not None for setting in settings):
        raise PluginError(
            f"{plugins.describe(backbone)}: its head ({', '.join(backbone.head_paths)}) "
            f"has no parameters"
        )
    return settings


def _one_a_channel(parameter: nn.Parameter) -> bool:
    """Whether it is a bias or a scale: (C,), or (C, 1, 1) as torchvision's layer scales are."""
    return parameter.ndim <= 1 or (parameter.ndim >= 3 and parameter.numel() == len(parameter))


def _check_complete(model: nn.Module, backbone: Backbone, groups: list[dict[str, Any]]) -> None:
    """Each trainable parameter is in exactly one group."""
    grouped = Counter(id(parameter) for group in groups for parameter in group["params"])
    for name, parameter in model.named_parameters():
        times = grouped[id(parameter)] if parameter.requires_grad else 1
        if times != 1:
            raise PluginError(
                f"{plugins.describe(backbone)}: parameter {name} is in {times} groups, not in one"
            )
