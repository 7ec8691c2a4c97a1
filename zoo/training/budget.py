"""How long a run will take, from a few steps measured before it starts."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from zoo.machine.device import place_images
from zoo.machine.speed import synchronise

#: Seconds that each of the two measurements takes at least, and most of its batches.
_SECONDS, _BATCHES = 0.5, 8

#: Share of the time that is left for writing, reading back and what else is not measured.
_RESERVE = 0.05


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds an image: of a training step, and of a forward pass."""

    train: float
    forward: float

    def epoch(self, train_images: int, val_images: int) -> float:
        """Seconds of an epoch and its validation."""
        return train_images * self.train + val_images * self.forward


def measure_speed(
    model: nn.Module, image_size: tuple[int, int], batch_size: int, device: torch.device
) -> Speed:
    """Measure a copy of the model on empty images.

    Args:
        model: On its device, in the mode in which it trains; neither it nor the state of any
            random generator is changed.
        image_size: (height, width).
        batch_size: Images at a time.
        device: Where the model is.
    """
    trainee = copy.deepcopy(model)
    images = place_images(torch.zeros(batch_size, 3, *image_size), device)

    def step() -> None:
        outputs = trainee(images)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        # Any loss: it takes next to nothing of a step.
        logits.float().square().mean().backward()

    with torch.random.fork_rng(devices=[]):
        train = _seconds(step, device) / batch_size
        trainee.eval()
        with torch.no_grad():
            forward = _seconds(lambda: trainee(images), device) / batch_size
    return Speed(train=train, forward=forward)


def affordable_epochs(
    seconds: float, speed: Speed, train_images: int, val_images: int, most: int
) -> int:
    """How many epochs fit into so many seconds, at most `most`; the last one is measured longer.

    What is measured after the last epoch, weights between the first and the last, counts too.
    """
    usable = seconds * (1 - _RESERVE) - 3 * val_images * speed.forward
    return max(0, min(most, int(usable / speed.epoch(train_images, val_images))))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, after a first one that is not counted."""
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
