"""Build transformers' models, and convert weights of any of its versions and of other sizes."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import zoo
from zoo_transformers.preprocessing import BGR, with_image_size

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

#: Learned position embeddings of a square grid of patches, after those of class tokens.
POSITIONS = re.compile(r"\bembeddings\.position_embeddings?(\.weight)?$")


def configured(config: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the configuration that a dictionary describes."""
    from transformers import CONFIG_MAPPING

    with quiet():
        found: PreTrainedConfig = CONFIG_MAPPING[config["model_type"]].from_dict(
            copy.deepcopy(dict(config))
        )
    return found


def create(config: Mapping[str, Any], architecture: str, num_classes: int | None) -> nn.Module:
    """Build a model of that class; `num_classes=None` means the number of the configuration."""
    import transformers

    own = configured(config)
    if num_classes is not None:
        own.num_labels = num_classes
    model: nn.Module = getattr(transformers, architecture)(own)
    if config["model_type"] in BGR:
        model.register_forward_pre_hook(_from_rgb)
    return model


def build(
    config: Mapping[str, Any],
    architecture: str,
    head_paths: tuple[str, ...],
    weights: zoo.Weights | None,
    num_classes: int | None,
    pretrained: bool,
) -> nn.Module:
    """Build a model, and load its pretrained weights if wanted; as `zoo.Backbone.build`."""
    model = create(config, architecture, num_classes)
    if pretrained and weights is not None:
        state_dict = zoo.weights.read_state_dict(zoo.weights.obtain(weights))
        model.load_state_dict(convert(config, architecture, head_paths, state_dict))
    return model


def convert(
    config: Mapping[str, Any],
    architecture: str,
    head_paths: tuple[str, ...],
    state_dict: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Rename weights as transformers does when it loads them, and resample position embeddings."""
    import torch

    with torch.device("meta"):
        own = create(config, architecture, None).state_dict()
    if _body(own, head_paths).keys() != _body(state_dict, head_paths).keys():
        state_dict = _renamed(config, architecture, head_paths, state_dict)
    resampled = {
        name: _resampled(tensor, own[name].shape)
        for name, tensor in state_dict.items()
        if POSITIONS.search(name) and name in own and own[name].shape != tensor.shape
    }
    return {**state_dict, **resampled} if resampled else state_dict


def _renamed(
    config: Mapping[str, Any],
    architecture: str,
    head_paths: tuple[str, ...],
    state_dict: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Load weights with transformers, whose names change with its versions.

    What it does not find is left out, except for the head; what it does not use is dropped. Tensors
    of another shape than the configuration's are returned as they are.
    """
    import torch
    import transformers

    # At the size of the file: transformers resamples nothing.
    own = configured(_at_the_size_of(state_dict, config))
    with quiet():
        model, info = getattr(transformers, architecture).from_pretrained(
            None,
            config=own,
            state_dict=dict(state_dict),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    mismatched = {name for name, *_ in info["mismatched_keys"]}
    lacking = mismatched | _body(dict.fromkeys(info["missing_keys"]), head_paths).keys()
    found = {name: t for name, t in model.state_dict().items() if name not in lacking}
    # With their own shapes, strict loading reports what does not fit the configuration.
    return {**found, **{name: state_dict[name] for name in mismatched & state_dict.keys()}}


def _at_the_size_of(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any]
) -> Mapping[str, Any]:
    patch = {**config, **config.get("vision_config", {})}.get("patch_size")
    tokens = [tensor.shape[-2] for name, tensor in state_dict.items() if POSITIONS.search(name)]
    if isinstance(patch, int) and len(tokens) == 1:
        return with_image_size(config, math.isqrt(tokens[0]) * patch)
    return config


def _resampled(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resample embeddings (..., tokens, width) as `interpolate_pos_encoding` of their models."""
    import torch
    from torch.nn.functional import interpolate

    tokens, width = tensor.shape[-2:]
    old, new = math.isqrt(tokens), math.isqrt(shape[-2])
    of_classes = tokens - old**2
    if of_classes != shape[-2] - new**2:
        return tensor
    rows = tensor.reshape(tokens, width)
    first, grid = rows[:of_classes], rows[of_classes:].T.reshape(1, width, old, old)
    grid = interpolate(grid, (new, new), mode="bicubic", align_corners=False)
    return torch.cat([first, grid.reshape(width, new**2).T]).reshape(shape)


def _body(named: Mapping[str, Any], head_paths: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: value
        for name, value in named.items()
        if not name.startswith(tuple(f"{path}." for path in head_paths))
    }


def _from_rgb(model: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    images, *rest = args
    return (images.flip(1), *rest)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' progress bars, and what it logs about configurations and weights."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
