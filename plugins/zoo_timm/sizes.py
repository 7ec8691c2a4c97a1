"""Build timm's networks of fixed input size for other sizes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import zoo
from zoo_timm.models import convert, create, quiet_resampling

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Models for which timm downloads the weights of the network in their stem when it loads any.
FETCHING = (
    "vit_base_resnet26d_224",
    "vit_base_resnet50d_224",
    "vit_small_resnet26d_224",
    "vit_small_resnet50d_s16_224",
)


def resized(
    architecture: str,
    declared: zoo.Backbone,
    image_size: int,
    options: Mapping[str, Any] | None = None,
) -> zoo.Backbone:
    """Return the same network for another size, with weights resampled by timm's own loading.

    Raises:
        ValueError: If timm can't build it or resample its weights, or its forward pass fails at
            that size.
    """
    at_size = {**(options or {}), "img_size": image_size}
    _check(architecture, declared.head_paths, at_size)
    files: Any = declared.files
    return dataclasses.replace(
        declared,
        build=functools.partial(create, architecture, **at_size),
        preprocess=dataclasses.replace(declared.preprocess, size=image_size),
        parameters=None,
        macs=None,
        convert=functools.partial(_convert, architecture, declared.head_paths, at_size),
        files=functools.partial(files, **at_size),
    )


def _check(architecture: str, head_paths: tuple[str, ...], at_size: dict[str, Any]) -> None:
    import torch

    if architecture.partition(".")[0] in FETCHING:
        raise ValueError("timm loads no weights for it without fetching those of its stem")
    image_size: int = at_size["img_size"]
    own_size = {name: value for name, value in at_size.items() if name != "img_size"}
    # On the meta device: only shapes matter, and nothing is computed or allocated.
    with torch.device("meta"), torch.no_grad():
        try:
            model = create(architecture, None, False, **at_size)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise ValueError(f"timm can't build it: {_first_line(error)}") from error
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        side = max(patch) if isinstance(patch, tuple) else patch
        if isinstance(side, int) and image_size % side:
            raise ValueError(f"{image_size} is not a multiple of its patch size, {side} pixels")
        original = create(architecture, None, False, **own_size).state_dict()
        try:
            _resample(architecture, at_size, model.state_dict(), head_paths, original)
        except (RuntimeError, ValueError, AssertionError) as error:
            unfit = re.search(r"size mismatch for ([\w.]+)", str(error))
            reason = f"its {unfit[1]} has another shape then" if unfit else _first_line(error)
            raise ValueError(f"timm can't resample its weights: {reason}") from error
        try:
            model.eval()(torch.zeros(1, 3, image_size, image_size))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(f"a layer of it can't take that: {_first_line(error)}") from error


def _convert(
    architecture: str,
    head_paths: tuple[str, ...],
    at_size: dict[str, Any],
    state_dict: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Convert weights for any size, with timm's or the published names; resample if needed."""
    import torch

    state_dict = convert(architecture, state_dict, **at_size)
    with torch.device("meta"):
        own = create(architecture, None, False, **at_size).state_dict()
    shapes = {k: v.shape for k, v in own.items() if not _in(k, head_paths)}
    given = {k: v.shape for k, v in state_dict.items() if not _in(k, head_paths)}
    # If only shapes differ, the weights are for another size; the core refuses all other cases.
    if given == shapes or given.keys() != shapes.keys():
        return state_dict
    return _resample(architecture, at_size, own, head_paths, state_dict)


def _resample(
    architecture: str,
    at_size: dict[str, Any],
    own: dict[str, Tensor],
    head_paths: tuple[str, ...],
    state_dict: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Resample weights by loading them with timm into a model of that size.

    `own` is the state dict of the network at that size. The head, of any class count, is unchanged.
    """
    import timm
    import torch

    device = next(iter(state_dict.values())).device
    body = {k: v for k, v in state_dict.items() if not _in(k, head_paths)}
    # timm requires complete weights, with as many classes as its own.
    head = {k: torch.zeros(v.shape, device=device) for k, v in own.items() if _in(k, head_paths)}
    overlay: dict[str, Any] = {"state_dict": {**body, **head}, "label_offset": 0}
    with quiet_resampling():
        model: nn.Module = timm.create_model(
            architecture, pretrained=True, pretrained_cfg_overlay=overlay, **at_size
        )
    resampled = {k: v for k, v in model.state_dict().items() if not _in(k, head_paths)}
    return {**state_dict, **resampled}


def _in(name: str, paths: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(line.strip() for line in itertools.islice(lines, 2))
