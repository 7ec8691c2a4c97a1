"""Exponential moving average (EMA) of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoo.training.snapshot import load_state


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state dict, on the same device."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def restore_average(average: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy a saved average into the current one, in place; an empty one changes nothing."""
    for name, tensor in saved.items():
        average[name].copy_(tensor)


@torch.no_grad()
def update_average(
    average: Mapping[str, Tensor], model: nn.Module, decay: float, step: int
) -> None:
    """Move the average towards the model's weights, in place; buffers are averaged too.

    Args:
        average: The average, initially from `copied`.
        model: The model after an optimizer step.
        decay: 0..1. At most (1 + step) / (10 + step) is used, because the initial weights would
            dominate an average over more steps than were taken (as in TensorFlow).
        step: Number of optimizer steps so far.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, share)
        else:
            average[name].copy_(tensor)


@contextmanager
def weights_of(model: nn.Module, state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Load `state` into the model within the context; None leaves the model as it is."""
    if state is None:
        yield
        return
    own = copied(model)
    load_state(model, state)
    try:
        yield
    finally:
        load_state(model, own)
