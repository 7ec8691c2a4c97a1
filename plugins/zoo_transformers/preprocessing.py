"""Preprocessing as transformers' image processors have it, and as they read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zoo

#: Model types whose networks take blue, green and red, and their image processors.
BGR = {
    "mobilevit": "MobileViTImageProcessor",
    "mobilevitv2": "MobileViTImageProcessor",
    "pp_lcnet": "PPLCNetImageProcessor",
}

#: Image processors of model types for which transformers has none, or one for documents.
PROCESSORS = {
    "dinov2_with_registers": "BitImageProcessor",
    "donut-swin": "ViTImageProcessor",
    "hgnet_v2": "ViTImageProcessor",
}

#: Input sizes of model types whose configurations have none, where an image processor's default is
#: not that of the published networks.
SIZES = {"cvt": 224, "regnet": 224, "resnet": 224}

#: Pillow's filters by their numbers; lanczos, box and hamming are replaced by what is nearest.
FILTERS: dict[int, Any] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
REPLACED = {1: 3, 4: 2, 5: 2}

#: What is read of an image processor; a checkpoint's own values replace the defaults of its class.
FIELDS = (
    "size",
    "crop_size",
    "resample",
    "default_to_square",
    "do_center_crop",
    "do_rescale",
    "rescale_factor",
    "rescale_offset",
    "do_normalize",
    "image_mean",
    "image_std",
    "include_top",
    "crop_pct",
    "resize_short",
)

#: Below this size, ConvNext's image processor crops; from it on, it squashes the image.
_CROPPED_BELOW = 384

#: LeViT's image processor resizes to this multiple of the size.
_LEVIT = 256 / 224


def image_size_of(config: Mapping[str, Any]) -> int | tuple[int, int] | None:
    """Return the input size that a configuration names, if it does."""
    size = {**config, **config.get("vision_config", {})}.get("image_size")
    return size if size is None or isinstance(size, int) else _one(int(size[0]), int(size[1]))


def with_image_size(config: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Return the configuration for another input size."""
    if "vision_config" in config:
        return {**config, "vision_config": {**config["vision_config"], "image_size": image_size}}
    return {**config, "image_size": image_size}


def with_channels(config: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Return the configuration for images of that many channels."""
    if "vision_config" in config:
        vision = {**config["vision_config"], "num_channels": channels}
        return {**config, "vision_config": vision}
    return {**config, "num_channels": channels}


def preprocess_of(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, *, fixed_size: bool
) -> zoo.Preprocess:
    """Return the preprocessing of a network, with the nearest that zoo has to its own.

    Args:
        config: The configuration of the network; its size counts unless a preprocessor names
            another, and the network takes that.
        preprocessor: Contents of preprocessor_config.json, or None.
        fixed_size: Whether the network takes no other size.
    """
    kind = _kind(config["model_type"], preprocessor or {})
    values = {**_defaults(kind), **(preprocessor or {})}
    own = image_size_of(config)
    if own is None and preprocessor is None:
        own = SIZES.get(config["model_type"])
    size, resize, squash = _geometry(kind, values, own)
    height_width = (size, size) if isinstance(size, int) else size
    resample = 2 if values["resample"] is None else int(values["resample"])
    mean, std = _normalisation(values)
    return zoo.Preprocess(
        size=own if own is not None and (fixed_size or preprocessor is None) else size,
        mean=mean,
        std=std,
        interpolation=FILTERS[REPLACED.get(resample, resample)],
        crop_pct=height_width[0] / resize,
        crop_mode="squash" if squash else "center",
        fixed_size=fixed_size,
    )


def processor_of(preprocess: zoo.Preprocess, model_type: str) -> dict[str, Any]:
    """Return the contents of preprocessor_config.json."""
    height, width = preprocess.height_width
    resize_height, resize_width = preprocess.resize
    squash = preprocess.crop_mode == "squash" or height != width
    size = (
        {"height": resize_height, "width": resize_width}
        if squash
        else {"shortest_edge": resize_height}
    )
    numbers = {name: number for number, name in FILTERS.items()}
    kind = BGR.get(model_type, "CLIPImageProcessor")
    own: dict[str, Any] = {}
    if kind == "MobileViTImageProcessor":
        own["do_flip_channel_order"] = True
    elif kind == "PPLCNetImageProcessor":
        own["resize_short"] = None if squash else resize_height
    return {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": numbers[preprocess.interpolation],
        "do_center_crop": not squash or preprocess.resize != preprocess.height_width,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        **own,
    }


def _kind(model_type: str, preprocessor: Mapping[str, Any]) -> str:
    """Return the class name of the image processor, without its backend."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    named = preprocessor.get("image_processor_type") or preprocessor.get("feature_extractor_type")
    known = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    kind = named or PROCESSORS.get(model_type) or known.get("torchvision") or "ViTImageProcessor"
    name = str(kind).replace("FeatureExtractor", "ImageProcessor")
    return name.removesuffix("Fast").removesuffix("Pil")


def _defaults(kind: str) -> dict[str, Any]:
    import transformers

    found = getattr(transformers, kind, None)
    if not isinstance(found, type) or not kind.endswith("ImageProcessor"):
        found = transformers.ViTImageProcessor
    return {name: getattr(found, name, None) for name in FIELDS}


def _geometry(
    kind: str, values: Mapping[str, Any], own: int | tuple[int, int] | None
) -> tuple[int | tuple[int, int], float, bool]:
    """Return (size, height before the crop, whether the aspect ratio is lost)."""
    edge, resize = _sides(values["size"], square=values["default_to_square"] is not False)
    _, crop = _sides(values["crop_size"], square=True)
    if kind == "ConvNextImageProcessor":
        side = own if isinstance(own, int) else edge or _height(resize) or _CROPPED_BELOW
        cropped = side < _CROPPED_BELOW
        return side, side / (values["crop_pct"] or 0.875) if cropped else side, not cropped
    if kind == "LevitImageProcessor" and edge:
        return crop or edge, int(_LEVIT * edge), False
    if kind == "PoolFormerImageProcessor" and values["crop_pct"]:
        return crop or edge or 224, int((edge or _height(resize)) / values["crop_pct"]), False
    if kind == "PPLCNetImageProcessor" and crop and values["resize_short"]:
        return crop, values["resize_short"], False
    if values["do_center_crop"] and crop:
        return crop, edge or _height(resize), edge is None
    size = resize or edge or 224
    return size, _height(size), edge is None


def _sides(size: Any, *, square: bool) -> tuple[int | None, int | tuple[int, int] | None]:
    """Return (shortest edge, size) of a size in any form; one of the two is None."""
    if size is None:
        return None, None
    if isinstance(size, int):
        return (None, size) if square else (size, None)
    if isinstance(size, list | tuple):
        return None, _one(int(size[0]), int(size[-1]))
    # A class attribute is a dictionary, an image processor's attribute has the same keys.
    if (edge := size.get("shortest_edge")) is not None:
        return int(edge), None
    return None, _one(int(size["height"]), int(size["width"]))


def _one(height: int, width: int) -> int | tuple[int, int]:
    return height if height == width else (height, width)


def _height(size: int | tuple[int, int] | None) -> int:
    return size[0] if isinstance(size, tuple) else size or 0


def _normalisation(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return mean and std for values in 0..1 that amount to all that is done with them."""
    factor = 1 / 255 if values["rescale_factor"] is None else float(values["rescale_factor"])
    scale = 255 * factor if values["do_rescale"] is not False else 255.0
    offset = 1.0 if values["rescale_offset"] else 0.0
    normalised = values["do_normalize"] and values["image_mean"] is not None
    means = values["image_mean"] if normalised else (0.0, 0.0, 0.0)
    stds = values["image_std"] if normalised else (1.0, 1.0, 1.0)
    # EfficientNet's image processor divides twice.
    twice = stds if values["include_top"] else (1.0, 1.0, 1.0)
    mean = tuple(_rounded((m + offset) / scale) for m in means)
    std = tuple(_rounded(s * t / scale) for s, t in zip(stds, twice, strict=True))
    return mean, std


def _rounded(value: float) -> float:
    """Without the last digits, in which 255 / 255 may differ from 1."""
    return float(f"{value:.12g}")
