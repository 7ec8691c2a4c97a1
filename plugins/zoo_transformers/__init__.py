"""zoo's plugin for transformers: its image classifiers, each with its default configuration."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import operator
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo
from zoo_transformers.files import files
from zoo_transformers.models import build, configured, convert, quiet
from zoo_transformers.options import options_of
from zoo_transformers.preprocessing import preprocess_of, with_channels, with_image_size
from zoo_transformers.stages import stages

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

#: Names of all networks that may be declared, for use without transformers. A class beside the
#: first of its model type is named after what follows `ForImageClassification`.
NAMES = (
    "beit",
    "bit",
    "clip",
    "convnext",
    "convnextv2",
    "cvt",
    "data2vec-vision",
    "deit",
    "deit-with-teacher",
    "dinat",
    "dinov2",
    "dinov2_with_registers",
    "donut-swin",
    "efficientnet",
    "focalnet",
    "hgnet_v2",
    "hiera",
    "ijepa",
    "imagegpt",
    "levit",
    "levit-with-teacher",
    "metaclip_2",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilevit",
    "mobilevitv2",
    "perceiver",
    "perceiver-conv-processing",
    "perceiver-fourier",
    "poolformer",
    "pp_lcnet",
    "pvt",
    "pvt_v2",
    "regnet",
    "resnet",
    "segformer",
    "shieldgemma2",
    "siglip",
    "siglip2",
    "swiftformer",
    "swin",
    "swinv2",
    "textnet",
    "timm_wrapper",
    "vit",
    "vit_msn",
)

LEFT_OUT = {
    "dinat": "its attention needs natten",
    "imagegpt": "it takes clusters of colours instead of pixels",
    "perceiver": "its forward pass reads values of tensors, so it can't be checked or exported",
    "perceiver-conv-processing": "it can't be built from the default configuration",
    "perceiver-fourier": "it can't be built from the default configuration",
    "shieldgemma2": "it answers questions about an image, and has no classifier",
    "siglip2": "it takes patches with their positions instead of an image",
    "timm_wrapper": "the plugin timm declares timm's networks",
}

#: What to install, and the first version whose classes have the names and layers of this plugin.
INSTALL, OLDEST = "pip install 'zoo-finetune[transformers]'", 5

#: Paths of the head by class, where it is not `classifier`.
HEADS = {
    "BitForImageClassification": ("classifier.1",),
    "DeiTForImageClassificationWithTeacher": ("cls_classifier", "distillation_classifier"),
    "HGNetV2ForImageClassification": ("fc",),
    "LevitForImageClassification": ("classifier.linear",),
    "LevitForImageClassificationWithTeacher": ("classifier.linear", "classifier_distill.linear"),
    "PPLCNetForImageClassification": ("head",),
    "RegNetForImageClassification": ("classifier.1",),
    "ResNetForImageClassification": ("classifier.1",),
    "SwiftFormerForImageClassification": ("head", "dist_head"),
    "TextNetForImageClassification": ("fc",),
}

#: Model types that take one input size only, and those of them whose position embeddings can be
#: resampled for another.
FIXED_SIZE = ("hiera", "levit", "pvt")
RESIZABLE = ("clip", "deit", "ijepa", "metaclip_2", "siglip", "vit", "vit_msn")

#: Parts of which the classifier makes no use, by model type.
UNUSED = {
    "clip": ("vision_model.post_layernorm",),
    "dinov2_with_registers": ("dinov2_with_registers.embeddings.mask_token",),
    "metaclip_2": ("vision_model.post_layernorm",),
}

#: Mask tokens, which a configuration with `use_mask_token` has.
MASK_TOKENS = {
    "beit": "beit.embeddings.mask_token",
    "data2vec-vision": "data2vec_vision.embeddings.mask_token",
    "dinov2": "dinov2.embeddings.mask_token",
}


@zoo.hookimpl
def zoo_backbones() -> Iterator[zoo.Backbone | zoo.LeftOut]:
    """Declare a backbone for each class of transformers' mapping for image classification."""
    if problem := _unusable():
        yield from (zoo.LeftOut(name=name, reason=problem) for name in NAMES)
        return
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    for model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        for number, architecture in enumerate(_classes(model_type)):
            name = f"{model_type}-{_suffix(architecture)}" if number else model_type
            if name not in NAMES:
                reason = "this version of zoo does not know where its classifier is"
                yield zoo.LeftOut(name=name, reason=reason)
            elif name in LEFT_OUT:
                yield zoo.LeftOut(name=name, reason=LEFT_OUT[name])
            else:
                with quiet():
                    config = CONFIG_MAPPING[model_type](architectures=[architecture])
                parameters, macs = _counts().get(name, (None, None))
                declared = declare(config, name=name)
                yield dataclasses.replace(declared, parameters=parameters, macs=macs)


@zoo.hookimpl
def zoo_resolve(
    name: str, definition: Mapping[str, Any] | None
) -> zoo.Backbone | zoo.LeftOut | None:
    """Declare a checkpoint in transformers' format: `hf-hub:OWNER/NAME` or `local-dir:PATH`."""
    checkpoint = zoo.weights.open_checkpoint(name, definition)
    if checkpoint is None or isinstance(checkpoint.config.get("architecture"), str):
        return None  # The plugin timm declares checkpoints in timm's format.
    try:
        declared = declare(
            checkpoint.config,
            name=checkpoint.name,
            preprocessor=checkpoint.preprocessor or None,
            weights=checkpoint.weights,
        )
    except (zoo.ZooError, ValueError, TypeError, KeyError, AttributeError) as error:
        # A configuration from anywhere can have values of any type in any place.
        return zoo.LeftOut(name=checkpoint.name, reason=f"its config.json can't be used: {error}")
    return dataclasses.replace(declared, definition=checkpoint.definition)


def declare(
    config: PreTrainedConfig | Mapping[str, Any],
    *,
    name: str,
    preprocessor: Mapping[str, Any] | None = None,
    weights: zoo.Weights | None = None,
) -> zoo.Backbone:
    """Declare a backbone from a configuration of transformers; nothing is built or downloaded.

    Args:
        config: A configuration, or the contents of a checkpoint's config.json. The class is the
            first of its `architectures` that is an image classifier of its `model_type`, else the
            model type's own.
        name: Name of the backbone.
        preprocessor: Contents of the checkpoint's preprocessor_config.json; None: the defaults of
            the model type's image processor.
        weights: Where the pretrained weights come from, in transformers' names of any version.

    Raises:
        ValueError: If it is not an image classifier, or not one that can be a backbone.
    """
    described = _described(config)
    model_type = described["model_type"]
    architecture = _architecture(described)
    heads = HEADS.get(architecture, ("classifier",))
    resizable = model_type in RESIZABLE
    output = "last_hidden_state" if model_type == "pp_lcnet" else "logits"
    return zoo.Backbone(
        name=name,
        build=functools.partial(build, described, architecture, heads, weights),
        head=heads,
        preprocess=preprocess_of(
            described, preprocessor, fixed_size=resizable or model_type in FIXED_SIZE
        ),
        weights=weights,
        stages=functools.partial(stages, heads),
        unused=_unused(described),
        resized=(
            functools.partial(_resized, described, name, preprocessor, weights)
            if resizable
            else None
        ),
        options=options_of(described),
        configured=functools.partial(_configured, described, architecture, heads, weights),
        convert=functools.partial(convert, described, architecture, heads),
        logits=operator.attrgetter(output),
        files=functools.partial(files, described, architecture),
    )


def _resized(
    config: Mapping[str, Any],
    name: str,
    preprocessor: Mapping[str, Any] | None,
    weights: zoo.Weights | None,
    image_size: int,
) -> zoo.Backbone:
    """Declare the network for another size; `convert` resamples the position embeddings."""
    patch = {**config, **config.get("vision_config", {})}["patch_size"]
    side = patch if isinstance(patch, int) else max(patch)
    if image_size % side:
        raise ValueError(f"{image_size} is not a multiple of its patch size, {side} pixels")
    other = with_image_size(config, image_size)
    return declare(other, name=name, preprocessor=preprocessor, weights=weights)


@functools.cache
def _counts() -> dict[str, tuple[int, int]]:
    """Return parameters and multiply-accumulates of networks of default configuration by name.

    transformers states none; bench/networks.py counts them.
    """
    with Path(__file__).with_name("networks.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {row["name"]: (int(row["parameters"]), int(row["macs"])) for row in rows}


def _configured(
    config: Mapping[str, Any],
    architecture: str,
    heads: tuple[str, ...],
    weights: zoo.Weights | None,
    backbone: zoo.Backbone,
    options: Mapping[str, Any],
) -> zoo.Backbone:
    """Return the network with other rates, and for images of `in_chans` channels."""
    rates = {name: value for name, value in options.items() if name != "in_chans"}
    other: Mapping[str, Any] = {**config, **rates}
    if "in_chans" in options:
        other = with_channels(other, options["in_chans"])
    return dataclasses.replace(
        backbone,
        build=functools.partial(build, other, architecture, heads, weights),
        files=functools.partial(files, other, architecture),
    )


def _described(config: PreTrainedConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return all values of a configuration, those of a dictionary with defaults, as JSON has them.

    Raises:
        ValueError: If it is not an image classifier, or not one that can be a backbone.
    """
    if problem := _unusable():
        raise ValueError(problem)
    if isinstance(config, Mapping):
        model_type = config.get("model_type")
        if model_type not in NAMES:
            raise ValueError(f"its model_type {model_type!r} is not an image classifier")
        if config.get("quantization_config"):
            raise ValueError("its weights are quantized")
        config = configured(config)
    described: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    if described["model_type"] in LEFT_OUT:
        raise ValueError(LEFT_OUT[described["model_type"]])
    # Where it was, what code it asks for, and how it was computed are not part of the network.
    for key in ("_name_or_path", "auto_map", "quantization_config"):
        described.pop(key, None)
    return {**described, "dtype": "float32", "return_dict": True}


def _architecture(config: Mapping[str, Any]) -> str:
    known = _classes(config["model_type"])
    named = [name for name in config.get("architectures") or () if name in known]
    return (named or known)[0]


def _classes(model_type: str) -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    names = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
    return [names] if isinstance(names, str) else list(names)


def _suffix(architecture: str) -> str:
    """`DeiTForImageClassificationWithTeacher` -> `with-teacher`."""
    rest = architecture.partition("ForImageClassification")[2]
    return "-".join(word.lower() for word in re.findall("[A-Z][a-z]*", rest))


def _unused(config: Mapping[str, Any]) -> tuple[str, ...]:
    model_type = config["model_type"]
    if model_type == "siglip":
        # Older versions, such as 5.17, have no such field by default, and a head.
        has_head = config["vision_config"].get("vision_use_head", True)
        return ("vision_model.head",) if has_head else ()
    if model_type in MASK_TOKENS:
        return (MASK_TOKENS[model_type],) if config["use_mask_token"] else ()
    return UNUSED.get(model_type, ())


def _unusable() -> str | None:
    """Return why transformers can't be used here, if it can't."""
    try:
        version = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return f"it needs transformers: {INSTALL}"
    if int(version.partition(".")[0]) < OLDEST:
        return f"it needs transformers {OLDEST} or later, {version} is installed: {INSTALL}"
    return None
