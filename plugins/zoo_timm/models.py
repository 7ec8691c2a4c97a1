"""Build timm's models, and convert their originally published weights."""

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
    """Call `timm.create_model`; `num_classes=None` means the number of the architecture."""
    import timm

    if num_classes is not None:
        options["num_classes"] = num_classes
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    with _no_long_retries(), quiet_resampling():
        return timm.create_model(name, pretrained=True, **options)


def convert(architecture: str, state_dict: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """Convert weights from the architecture's original publication as timm's own loading does."""
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
    """Hide torch's warnings about how timm's resampling is implemented."""
    with warnings.catch_warnings():
        for text in ("torch.searchsorted", "Using a non-tuple sequence"):
            warnings.filterwarnings("ignore", re.escape(text), UserWarning)
        yield


@contextmanager
def _no_long_retries() -> Iterator[None]:
    """Prevent the Hub's client from retrying for most of a minute if its host is unreachable."""
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not zoo.weights.is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
