"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoo.training.snapshot import load_state


def copied(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict, on the same device."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def update_average(
    average: Mapping[str, Tensor], model: nn.Module, decay: float, step: int
) -> None:
    """Move the average towards the model's weights, in place; buffers are averaged too.

    Args:
        average: As `copied` gave it.
        model: After an optimizer step.
        decay: 0..1. The first steps use less, (1 + step) / (10 + step), since an average over more
            steps than there were would stay at the initial weights (as in TensorFlow and timm).
        step: The number of optimizer steps so far.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, share)
        else:
            average[name].copy_(tensor)


@contextmanager
def weights_of(model: nn.Module, state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Give the model other weights for a while; None: its own."""
    if state is None:
        yield
        return
    own = copied(model)
    load_state(model, state)
    try:
        yield
    finally:
        load_state(model, own)
