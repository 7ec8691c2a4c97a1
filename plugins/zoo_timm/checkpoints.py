"""Declare checkpoints in timm's format, as timm, zoo and many others publish them on the Hub."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import zoo
import zoo.backbone
import zoo_timm
from zoo_timm.models import convert, create
from zoo_timm.sizes import resized

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import Tensor, nn

    Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]

#: What a checkpoint's own configuration decides; the rest comes from timm's architecture.
_DESCRIBED = (
    "tag",
    "input_size",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "mean",
    "std",
    "num_classes",
)


def declare_checkpoint(checkpoint: zoo.weights.Checkpoint) -> zoo.Backbone | zoo.LeftOut | None:
    """Declare a checkpoint; None if its config.json is not in timm's format."""
    import timm

    config = checkpoint.config
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        return None
    if not timm.is_model(architecture):
        reason = f"timm {timm.__version__} has no architecture {architecture!r}"
        return zoo.LeftOut(name=checkpoint.name, reason=reason)
    try:
        options = {k: _tuple(v) for k, v in dict(config.get("model_args") or {}).items()}
        options.pop("num_classes", None)
        channels = options.pop("in_chans", 3)
        if type(channels) is not int or channels not in zoo.backbone.CHANNELS:
            raise ValueError(f"images of {channels} channels, and zoo gives a network 1, 3 or 4")
        if channels != 3:
            options["in_chans"] = channels
        return _declare(checkpoint, architecture, _described(architecture, config), options)
    except (zoo.ZooError, TypeError, ValueError, AttributeError) as error:
        reason = f"its config.json can't be used: {error}"
        return zoo.LeftOut(name=checkpoint.name, reason=reason)


def _described(architecture: str, config: Mapping[str, Any]) -> PretrainedCfg:
    """Return timm's description of the architecture with the values of the checkpoint."""
    import timm

    own = config.get("pretrained_cfg", config)
    cfg = timm.get_pretrained_cfg(architecture)
    if cfg is None:
        raise ValueError(f"timm describes no {architecture}")
    values = {key: _tuple(own[key]) for key in _DESCRIBED if own.get(key) is not None}
    channels = (config.get("model_args") or {}).get("in_chans", 3)
    for key in ("mean", "std"):
        stated = values.get(key, getattr(cfg, key))
        # Those of a network for other images than the architecture's weights may be its own.
        values[key] = tuple(stated[n % 3] for n in range(channels)) if len(stated) == 3 else stated
        if len(values[key]) != channels:
            raise ValueError(f"{key} has {len(stated)} values for {channels} channels")
    if "num_classes" in config:
        values["num_classes"] = config["num_classes"]
    if (config.get("model_args") or {}).get("dynamic_img_size"):
        values["fixed_input_size"] = False
    cfg = dataclasses.replace(cfg, **values)
    if type(cfg.num_classes) is not int or not 0 <= cfg.num_classes <= 1_000_000:
        raise ValueError(f"num_classes is {cfg.num_classes!r}")
    return cfg


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _declare(
    checkpoint: zoo.weights.Checkpoint,
    architecture: str,
    cfg: PretrainedCfg,
    options: dict[str, Any],
) -> zoo.Backbone:
    # timm's description of the architecture names the licence and data of other weights.
    own = checkpoint.config.get("pretrained_cfg", checkpoint.config)
    tag, licence = (
        own.get(key) if isinstance(own.get(key), str) else None for key in ("tag", "license")
    )
    weights = dataclasses.replace(
        checkpoint.weights,
        tag=tag or None,
        license=checkpoint.license or licence,
        data=zoo_timm.training_data(tag or ""),
        num_classes=cfg.num_classes,
    )
    own_convert = functools.partial(convert, architecture, **options)
    build = functools.partial(
        _build,
        architecture=architecture,
        options=options,
        own_classes=cfg.num_classes,
        weights=weights,
        convert_weights=own_convert,
    )
    declared = zoo_timm.declare(
        architecture, cfg, build=build, weights=weights, name=checkpoint.name
    )
    declared = dataclasses.replace(
        declared,
        convert=own_convert,
        files=declared.files and functools.partial(declared.files, **options),
        definition=checkpoint.definition,
    )
    if options:
        # They can make another network of the architecture than the one that was counted.
        declared = dataclasses.replace(declared, parameters=None, macs=None)
    if declared.resized is None:
        return declared
    other_size = functools.partial(_resized, architecture, declared, build, options)
    return dataclasses.replace(declared, resized=other_size)


def _resized(
    architecture: str,
    declared: zoo.Backbone,
    build: functools.partial[nn.Module],
    options: Mapping[str, Any],
    image_size: int,
) -> zoo.Backbone:
    """Return the checkpoint's network for another size, as `zoo_timm.sizes.resized` does."""
    others = {name: value for name, value in options.items() if name != "img_size"}
    other = resized(architecture, declared, image_size, others)
    changed: dict[str, Any] = {
        "options": {**others, "img_size": image_size},
        "convert_weights": other.convert,
    }
    return dataclasses.replace(other, build=functools.partial(build, **changed))


def _build(
    num_classes: int | None,
    pretrained: bool,
    *,
    architecture: str,
    options: Mapping[str, Any],
    own_classes: int,
    weights: zoo.Weights,
    convert_weights: Convert,
    **more: Any,
) -> nn.Module:
    """Build the checkpoint's network; `options` are its own, `more` those that a user sets."""
    classes = own_classes if num_classes is None else num_classes
    model = create(architecture, classes, pretrained=False, **{**options, **more})
    if pretrained:
        state_dict = zoo.weights.read_state_dict(zoo.weights.obtain(weights))
        model.load_state_dict(convert_weights(state_dict))
    return model
