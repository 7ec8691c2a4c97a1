"""Build timm's models, and load what they were published as."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import zoo

if TYPE_CHECKING:
    from torch import Tensor, nn


def create(name: str, num_classes: int | None, pretrained: bool, **options: Any) -> nn.Module:
    """`timm.create_model`, where `num_classes=None` means the architecture's own."""
    import timm

    if num_classes is not None:
        options["num_classes"] = num_classes
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    with _no_long_retries(), quiet_resampling():
        return timm.create_model(name, pretrained=True, **options)


def convert(architecture: str, state_dict: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """A file from where the architecture was first published, as timm's own loading takes it."""
    import timm
    import torch

    module = sys.modules[timm.model_entrypoint(architecture).__module__]
    filter_fn = getattr(module, "checkpoint_filter_fn", None)
    if filter_fn is None:
        return state_dict
    with torch.device("meta"):
        names = create(architecture, None, pretrained=False, **options).state_dict().keys()
    if names >= state_dict.keys():
        return state_dict
    model = create(architecture, None, pretrained=False, **options)
    converted: dict[str, Tensor] = filter_fn(state_dict, model)
    return converted


@contextmanager
def quiet_resampling() -> Iterator[None]:
    """Keep torch's advice to timm on how to write its resampling from the user's eyes."""
    with warnings.catch_warnings():
        for text in ("torch.searchsorted", "Using a non-tuple sequence"):
            warnings.filterwarnings("ignore", re.escape(text), UserWarning)
        yield


@contextmanager
def _no_long_retries() -> Iterator[None]:
    """Keep the hub's client from retrying for most of a minute when its host can't be reached."""
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not zoo.weights.is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
