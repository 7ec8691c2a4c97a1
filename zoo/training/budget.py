"""Estimate of the duration of a run, from a few steps measured before it starts."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from zoo.machine.device import place_images
from zoo.machine.speed import synchronise

#: Each of the two measurements ends after this many seconds or batches.
_SECONDS, _BATCHES = 0.5, 8

#: Share of the time reserved for writing, reading back and other work that is not measured.
_RESERVE = 0.05


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds per image of a training step (`train`) and of a forward pass (`forward`)."""

    train: float
    forward: float

    def epoch(self, train_images: int, val_images: int) -> float:
        """Return the duration of an epoch and its validation, in seconds."""
        return train_images * self.train + val_images * self.forward


def measure_speed(
    model: nn.Module, shape: tuple[int, int, int], batch_size: int, device: torch.device
) -> Speed:
    """Measure the speed of a copy of the model on images of zeros.

    Args:
        model: The model on its device, in the mode used for training. Neither it nor the state of
            any random generator is changed.
        shape: (channels, height, width) of an image.
        batch_size: Images per batch.
        device: Device of the model.
    """
    trainee = copy.deepcopy(model)
    images = place_images(torch.zeros(batch_size, *shape), device)

    def step() -> None:
        outputs = trainee(images)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        # Any loss will do: it takes a negligible part of a step.
        logits.float().square().mean().backward()

    with torch.random.fork_rng(devices=[]):
        train = median_seconds(step, device) / batch_size
        trainee.eval()
        with torch.no_grad():
            forward = median_seconds(lambda: trainee(images), device) / batch_size
    return Speed(train=train, forward=forward)


def forward_seconds(
    model: nn.Module, shape: tuple[int, int, int], batch_size: int, device: torch.device
) -> float:
    """Return the seconds per image of a forward pass of a model in eval mode; see `measure_speed`.

    Args:
        model: The model on its device.
        shape: (channels, height, width) of an image.
        batch_size: Images per batch.
        device: Device of the model.
    """
    images = place_images(torch.zeros(batch_size, *shape), device)
    with torch.no_grad():
        return median_seconds(lambda: model(images), device) / batch_size


def affordable_epochs(
    seconds: float, speed: Speed, train_images: int, val_images: int, most: int
) -> int:
    """Return how many epochs fit into `seconds`, at most `most`.

    This includes the validation of interpolated weights after the last epoch.
    """
    usable = seconds * (1 - _RESERVE) - 3 * val_images * speed.forward
    return max(0, min(most, int(usable / speed.epoch(train_images, val_images))))


def median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median duration of a call in seconds, after a warm-up call."""
    work()
    each: list[float] = []
    begun = time.perf_counter()
    while len(each) < 3 or (time.perf_counter() - begun < _SECONDS and len(each) < _BATCHES):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        each.append(time.perf_counter() - started)
    return sorted(each)[len(each) // 2]
