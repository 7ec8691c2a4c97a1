"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

OptimizerName = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "constant"]

#: Number of tensors of a parameter's size that an optimizer stores for it.
MOMENTS: dict[OptimizerName, int] = {"sgd": 1, "adamw": 2}


def make_optimizer(
    name: OptimizerName, groups: list[dict[str, Any]], *, momentum: float
) -> torch.optim.Optimizer:
    """Create SGD (with `momentum`) or AdamW for groups with their own lr and weight decay.

    AdamW is fused, which halves the time of a step. SGD's fused kernel is hardly faster, and fails
    for parameters that are unfrozen later.

    Each group's `initial_lr` is the rate that the schedule multiplies.
    """
    groups = [{**g, "initial_lr": g["lr"]} for g in groups]
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum)
    return torch.optim.AdamW(groups, fused=True)


def lr_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Return the factor of the learning rates at a step (counted from 0).

    Linear warm-up, then constant or one cycle of a cosine to 0 (Loshchilov and Hutter, 2017).
    It depends on the step alone, so that a resumed run needs no scheduler state.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to its `initial_lr` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def rate_of(optimizer: torch.optim.Optimizer, part: str) -> float:
    """Return a part's learning rate, 0 if frozen; for the backbone that of its deepest depth."""
    rates = [
        group["lr"]
        for group in optimizer.param_groups
        if group["part"] == part and any(p.requires_grad for p in group["params"])
    ]
    return rates[-1] if rates else 0.0


def describe_rates(optimizer: torch.optim.Optimizer) -> str:
    """Describe the learning rates of backbone and head."""
    rates = ", ".join(f"{part} {rate_of(optimizer, part):g}" for part in ("backbone", "head"))
    return f"learning rates: {rates}"
