"""zoo's plugin for timm: every model in its registry that has a classifier."""

from __future__ import annotations

import csv
import dataclasses
import functools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo
from zoo_timm.models import convert, create
from zoo_timm.options import OPTIONS, configured
from zoo_timm.sizes import resized
from zoo_timm.stages import stages

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

#: All layers whose shape depends on the class count, where timm's declarations are incomplete.
CLASSIFIERS = {
    "levit_384_s8": ("head.linear", "head_dist.linear"),
    "levit_conv_384_s8": ("head.linear", "head_dist.linear"),
}

#: Datasets by their names in timm's tags.
DATASETS = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "jft": "JFT-300M",
    "laion2b": "LAION-2B",
    "laiona": "LAION-Aesthetic",
    "laion400m": "LAION-400M",
    "openai": "WIT-400M",
    "datacompxl": "DataComp-XL",
    "dfn2b": "DFN-2B",
    "dfn5b": "DFN-5B",
    "metaclip": "MetaCLIP",
    "merged2b": "Merged-2B",
    "webli": "WebLI",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "sat493m": "SAT-493M",
    "yfcc100m": "YFCC-100M",
    "ig1b": "Instagram-1B",
    "sa1b": "SA-1B",
    "m30m": "Merged-30M",
    "m38m": "Merged-38M",
    "bamboo": "Bamboo",
    "inat21": "iNaturalist-2021",
}


@zoo.hookimpl
def zoo_backbones() -> Iterator[zoo.Backbone | zoo.LeftOut]:
    """Declare a backbone for each name of `timm.list_models()`, with the default weights.

    Other published weights are selected by their tag.
    """
    import timm

    tags = defaultdict(list)
    for pretrained in timm.list_pretrained():
        name, _, tag = pretrained.partition(".")
        tags[name].append(tag)
    for name in timm.list_models():
        cfg = timm.get_pretrained_cfg(name)
        encoder = _pure_encoder(name)
        if encoder:
            reason = f"a pure encoder ({encoder}): timm gives it no classifier"
            yield zoo.LeftOut(name=name, reason=reason)
        elif cfg is None or not cfg.classifier:
            yield zoo.LeftOut(name=name, reason="timm does not say where its classifier is")
        else:
            declared = declare(
                name, cfg, build=functools.partial(create, name), weights=_weights(cfg)
            )
            tagged = {tag: functools.partial(_tagged, name, tag) for tag in tags[name] if tag}
            yield dataclasses.replace(declared, tagged=tagged)


@zoo.hookimpl
def zoo_resolve(
    name: str, definition: Mapping[str, Any] | None
) -> zoo.Backbone | zoo.LeftOut | None:
    """Declare a checkpoint in timm's format: `hf-hub:OWNER/NAME` or `local-dir:PATH`."""
    from zoo_timm.checkpoints import declare_checkpoint

    checkpoint = zoo.weights.open_checkpoint(name, definition)
    return None if checkpoint is None else declare_checkpoint(checkpoint)


def _tagged(architecture: str, tag: str) -> zoo.Backbone:
    """Declare the architecture with the published weights of that tag."""
    import timm

    name = f"{architecture}.{tag}"
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        raise LookupError(f"timm has no weights {name}")
    return declare(name, cfg, build=functools.partial(create, name), weights=_weights(cfg))


def declare(
    architecture: str,
    cfg: PretrainedCfg,
    *,
    build: Callable[..., nn.Module],
    weights: zoo.Weights | None,
    name: str | None = None,
) -> zoo.Backbone:
    """Declare a backbone from timm's own description of the architecture."""
    _, height, width = cfg.input_size
    bare_name = architecture.partition(".")[0]
    classifier: Any = CLASSIFIERS.get(bare_name, cfg.classifier)
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    described: dict[str, Any] = {
        "mean": tuple(cfg.mean),
        "std": tuple(cfg.std),
        "interpolation": cfg.interpolation,
        "crop_mode": cfg.crop_mode,
    }
    parameters, macs = _counts().get((bare_name, height, width, cfg.num_classes), (None, None))
    backbone = zoo.Backbone(
        name=name or architecture,
        build=build,
        head=heads if len(heads) > 1 else heads[0],
        preprocess=zoo.Preprocess(
            size=height if height == width else (height, width),
            crop_pct=cfg.crop_pct,
            fixed_size=bool(cfg.fixed_input_size),
            **described,
        ),
        weights=weights,
        parameters=parameters,
        macs=macs,
        stages=functools.partial(stages, heads),
        options=OPTIONS,
        configured=configured,
        convert=functools.partial(convert, architecture),
        files=functools.partial(_files, bare_name, _described(cfg, classifier)),
    )
    if not backbone.preprocess.fixed_size:
        return backbone
    return dataclasses.replace(backbone, resized=functools.partial(resized, architecture, backbone))


@functools.cache
def _counts() -> dict[tuple[str, int, int, int], tuple[int, int]]:
    """Return parameters and multiply-accumulates by architecture, height, width and classes.

    timm's package has no such figures; bench/networks.py counts them.
    """
    with Path(__file__).with_name("networks.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            (row["architecture"], int(row["height"]), int(row["width"]), int(row["classes"])): (
                int(row["parameters"]),
                int(row["macs"]),
            )
            for row in rows
        }


def _described(cfg: PretrainedCfg, classifier: object) -> dict[str, Any]:
    """Return what timm's `pretrained_cfg` says beside the preprocessing, as JSON has it."""
    described = {
        "tag": cfg.tag,
        "custom_load": False,
        "fixed_input_size": cfg.fixed_input_size,
        "pool_size": cfg.pool_size,
        "first_conv": cfg.first_conv,
        "classifier": classifier,
    }
    return _as_json(described)


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _files(
    architecture: str,
    described: dict[str, Any],
    class_names: Sequence[str],
    preprocess: zoo.Preprocess,
    **model_args: Any,
) -> dict[str, dict[str, Any]]:
    """Return config.json as `timm.create_model("local-dir:RUN")` reads it."""
    count = len(class_names)
    config: dict[str, Any] = {
        "architecture": architecture,
        "library_name": "timm",
        "pretrained_cfg": {**described, **preprocess.to_config(), "num_classes": count},
    }
    if model_args:
        config["model_args"] = _as_json(model_args)
    return {"config.json": {**config, "num_classes": count, "label_names": list(class_names)}}


def _pure_encoder(name: str) -> str | None:
    """Return the class name in the entry point's return annotation if it has no classifier."""
    import timm

    entry_point = timm.model_entrypoint(name)
    returned = entry_point.__annotations__.get("return")
    if isinstance(returned, str):
        returned = getattr(sys.modules[entry_point.__module__], returned, None)
    if isinstance(returned, type) and not hasattr(returned, "get_classifier"):
        return returned.__name__
    return None


def _weights(cfg: PretrainedCfg) -> zoo.Weights | None:
    about: dict[str, Any] = {
        "tag": cfg.tag,
        "license": cfg.license,
        "data": training_data(cfg.tag or ""),
        "num_classes": cfg.num_classes,
    }
    if cfg.hf_hub_id:
        return zoo.Weights(hub=cfg.hf_hub_id, **about)
    if isinstance(cfg.url, str) and cfg.url:
        return zoo.Weights(url=cfg.url, **about)
    return None


def training_data(tag: str) -> str | None:
    """Return the datasets that a tag of timm names, in the order of training."""
    named = [DATASETS[part] for part in tag.split("_") if part in DATASETS]
    return ", then ".join(dict.fromkeys(named)) or None
