"""Many processes, one decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

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
