"""Parameter groups of head and backbone; each trainable parameter is in exactly one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import PluginError
from zoo.models.depth import Depths, depths, require_stages
from zoo.models.head import in_head

#: Layers whose parameters have no weight decay; _NormBase is batch and instance norm.
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Training settings of one parameter, which may be frozen; `depth` is None in the head."""

    name: str
    parameter: nn.Parameter
    depth: int | None
    lr: float
    decays: bool


def split_parameters(
    model: nn.Module, backbone: Backbone
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return all parameters as (backbone group, head group): frozen ones too, tied ones once."""
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
    layers: Depths | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups for any torch optimizer, with layer-wise learning-rate decay.

    The learning rate is `lr * head_lr_mult` for the head, `lr` for the backbone's deepest depth
    (the neck, if there is one), and for each other depth `layer_decay` times that of the next
    deeper one (BEiT: Bao et al., 2022). Weight decay excludes parameters of norm layers and those
    with at most one value per channel: biases, norms and layer scales (He et al., 2019).

    Args:
        model: A model from `zoo.build`.
        backbone: Name or declaration of the backbone, which declares its head and stages.
        lr: Learning rate of the backbone's deepest depth.
        head_lr_mult: The head's learning rate divided by `lr`.
        weight_decay: Weight decay of all parameters but biases, norms and layer scales.
        layer_decay: Learning rate of a depth divided by that of the next deeper one.
        wd_on_norms: Whether weight decay also applies to biases, norms and layer scales.
        layers: Depths of the model; None: as the backbone declares them.

    Returns:
        Dicts from the stem to the head with `name` ("backbone", "backbone 3 (no decay)", "head",
        ...), `params`, `lr`, `weight_decay`, `part` ("backbone" or "head") and `depth` (0 for the
        stem; None for the head, or if all depths have the same rate). Parameters that don't require
        gradients are in no group; tied ones are in the group of their first name.

    Raises:
        PluginError: If the head that the backbone declares has no parameters, or `layer_decay` is
            not 1 and the backbone's stages are not declared or don't cover every parameter.
    """
    if isinstance(backbone, str):
        backbone = plugins.get(backbone)
    settings = parameter_settings(
        model,
        backbone,
        depths(model, backbone) if layers is None else layers,
        lr=lr,
        head_lr_mult=head_lr_mult,
        layer_decay=layer_decay,
        wd_on_norms=wd_on_norms,
    )
    groups = grouped(settings, weight_decay=weight_decay, by_depth=layer_decay != 1)
    _check_complete(model, backbone, groups)
    return groups


def grouped(
    settings: Iterable[Setting], *, weight_decay: float, by_depth: bool
) -> list[dict[str, Any]]:
    """Return parameter groups as `parameter_groups` does, from settings of `parameter_settings`."""
    groups: dict[tuple[bool, int, bool], dict[str, Any]] = {}
    for setting in settings:
        if not setting.parameter.requires_grad:
            continue
        part = "head" if setting.depth is None else "backbone"
        depth = setting.depth if by_depth else None
        # Without weight decay, no separate groups are needed.
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
    return [groups[key] for key in sorted(groups)]


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
    """Return the training settings of each parameter: frozen ones too, tied ones once.

    Raises:
        PluginError: As in `parameter_groups`.
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
    """Return whether the shape is (C,) (bias, scale) or (C, 1, 1) (torchvision's layer scale)."""
    return parameter.ndim <= 1 or (parameter.ndim >= 3 and parameter.numel() == len(parameter))


def _check_complete(model: nn.Module, backbone: Backbone, groups: list[dict[str, Any]]) -> None:
    """Check that each trainable parameter is in exactly one group."""
    grouped = Counter(id(parameter) for group in groups for parameter in group["params"])
    for name, parameter in model.named_parameters():
        times = grouped[id(parameter)] if parameter.requires_grad else 1
        if times != 1:
            raise PluginError(
                f"{plugins.describe(backbone)}: parameter {name} is in {times} groups, not in one"
            )
