"""Devices and processes, through accelerate: many processes, one decision."""

from __future__ import annotations

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


def make_accelerator(device: torch.device, precision: str) -> Accelerator:
    """What places models and batches on a device, in `fp32`, `bf16` or `fp16`."""
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
