"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

OptimizerName = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "constant"]

#: Tensors of a parameter's size that an optimizer keeps for it.
MOMENTS: dict[OptimizerName, int] = {"sgd": 1, "adamw": 2}


def make_optimizer(
    name: OptimizerName, groups: list[dict[str, Any]], *, momentum: float
) -> torch.optim.Optimizer:
    """SGD (with `momentum`) or AdamW over groups that carry their own lr and weight decay.

    AdamW is fused: a step takes half the time. SGD's fused kernel gains nothing to speak of, and
    refuses what is unfrozen later.

    Each group's `initial_lr` is the rate that the schedule multiplies.
    """
    groups = [{**g, "initial_lr": g["lr"]} for g in groups]
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum)
    return torch.optim.AdamW(groups, fused=True)


def lr_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """What the learning rates are multiplied with at a step, counted from 0.

    Linear warm-up, then constant or one cycle of a cosine to 0 (Loshchilov and Hutter, 2017).
    A function of the step alone, so that a resumed run needs no scheduler state.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its `initial_lr` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def rate_of(optimizer: torch.optim.Optimizer, part: str) -> float:
    """The learning rate of a part, where it trains; the backbone's is its deepest depth's."""
    rates = [
        group["lr"]
        for group in optimizer.param_groups
        if group["part"] == part and any(p.requires_grad for p in group["params"])
    ]
    return rates[-1] if rates else 0.0


def describe_rates(optimizer: torch.optim.Optimizer) -> str:
    """The learning rates of both parts, in words."""
    rates = ", ".join(f"{part} {rate_of(optimizer, part):g}" for part in ("backbone", "head"))
    return f"learning rates: {rates}"
