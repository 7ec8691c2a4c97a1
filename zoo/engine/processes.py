"""Devices and processes, through accelerate: many processes, one decision."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, broadcast_object_list

from zoo.errors import ZooError

T = TypeVar("T")


def decide_on_main(accelerator: Accelerator, decide: Callable[[], T]) -> T:
    """What `decide` gives, or the ZooError it raises, in the main process, for all processes."""
    decided: T | ZooError | None = None
    if accelerator.is_main_process:
        try:
            decided = decide()
        except ZooError as error:
            decided = error
    shared: list[T | ZooError] = broadcast_object_list([decided])
    if isinstance(shared[0], ZooError):
        raise shared[0]
    return shared[0]


def agree(accelerator: Accelerator, *flags: bool | torch.Tensor) -> list[bool]:
    """Each flag, whether it is up in any process."""
    if accelerator.num_processes == 1:
        return [bool(flag) for flag in flags]
    raised = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    return [up > 0 for up in accelerator.reduce(raised, reduction="sum").tolist()]


def of_each(accelerator: Accelerator, value: int | None) -> list[int | None]:
    """What each of several processes says, by rank; empty with one process.

    Args:
        accelerator: Of all of them, each of which calls this.
        value: Of this process, above 0; or None.
    """
    if accelerator.num_processes == 1:
        return []
    mine = torch.tensor([value or 0], device=accelerator.device)
    return [each or None for each in accelerator.gather(mine).tolist()]


def make_accelerator(
    device: torch.device, precision: str, *, deterministic: bool = False
) -> Accelerator:
    """What places models and batches on a device, in `fp32`, `bf16` or `fp16`.

    `deterministic` is torch's setting for the whole process: an operation that knows no other way
    than one whose bits differ from time to time raises a RuntimeError.
    """
    if deterministic and device.type != "cpu":
        torch.use_deterministic_algorithms(True)
        # cuBLAS asks for it, before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    options = {
        "cpu": device.type == "cpu",
        "mixed_precision": "no" if precision == "fp32" else precision,
        # A GPU computes on while the next batch comes from pinned memory.
        "dataloader_config": DataLoaderConfiguration(non_blocking=True),
    }
    try:
        return Accelerator(**options)
    except ValueError:
        # An earlier one's state outlives it and refuses another device or precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(**options)
