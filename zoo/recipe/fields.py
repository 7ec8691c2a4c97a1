"""Validation of recipe fields that accept several types."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from pydantic import ValidationInfo

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?[smh]", re.ASCII)


def check_freeze(value: object) -> object:
    """Validate `freeze`: a number of depths, or the name of a stage.

    Raises:
        ValueError: The value is neither.
    """
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not good and not (isinstance(value, str) and value):
        raise ValueError(
            f"freeze = {value!r}: give none, backbone, a number of depths from 1 on, or a stage"
        )
    return value


def check_unfreeze_epoch(value: object) -> object:
    """Validate `unfreeze_epoch`: an epoch >= 2, several in ascending order, or None.

    Raises:
        ValueError: The value is none of these.
    """
    if value is None:
        return None
    # TOML has only lists, but a frozen recipe must not contain mutable values.
    epochs = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not epochs or not all(type(epoch) is int for epoch in epochs):
        raise ValueError(
            f"unfreeze_epoch = {value!r}: give an epoch (3) or several (2, 4), in whole numbers"
        )
    if epochs[0] < 2:
        raise ValueError(
            f"unfreeze_epoch = {value!r}: from 2 on; at 1 nothing would ever be frozen"
        )
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise ValueError(f"unfreeze_epoch = {value!r}: each epoch must be later than the last")
    return epochs if isinstance(value, list | tuple) else value


def check_checkpoint_every(value: object) -> object:
    """Validate `checkpoint_every`: a number of steps, or a time such as 30s, 10m or 2h.

    Raises:
        ValueError: The value is neither.
    """
    steps = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not steps and not (isinstance(value, str) and _DURATION.fullmatch(value)):
        raise ValueError(
            f"checkpoint_every = {value!r}: give a number of steps from 1 on, "
            f"or a time such as 30s, 10m or 2h"
        )
    return value


def check_time(value: object, about: ValidationInfo) -> object:
    """Validate a time such as 30s, 10m or 2h, or None.

    Raises:
        ValueError: The value is neither.
    """
    if value is None or (
        isinstance(value, str) and _DURATION.fullmatch(value) and seconds_of(value) > 0
    ):
        return value
    raise ValueError(f"{about.field_name} = {value!r}: give a time such as 30s, 10m or 2h")


def check_backbone_options(value: Any) -> object:
    """Validate `backbone_options`: a table of booleans, numbers and texts.

    Raises:
        ValueError: The value is not such a table.
    """
    good = isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(each, bool | int | float | str)
        and (not isinstance(each, float) or math.isfinite(each))
        for name, each in value.items()
    )
    if not good:
        raise ValueError(
            f"backbone_options = {value!r}: give a table of names with numbers, texts, true or "
            f"false, such as {{ drop_rate = 0.1 }}"
        )
    # A frozen recipe must not change with the caller's table.
    return dict(value)


def check_optimizer_options(value: Any) -> object:
    """Validate `optimizer_options`: a table of booleans, numbers, texts and lists of numbers.

    Raises:
        ValueError: The value is not such a table.
    """

    def is_number(each: object) -> bool:
        return type(each) in (int, float) and math.isfinite(each)  # type: ignore[arg-type]

    good = isinstance(value, Mapping) and all(
        isinstance(name, str)
        and (
            isinstance(each, bool | str)
            or is_number(each)
            or (isinstance(each, list | tuple) and all(map(is_number, each)))
        )
        for name, each in value.items()
    )
    if not good:
        raise ValueError(
            f"optimizer_options = {value!r}: give a table of names with numbers, lists of numbers, "
            f"texts, true or false, such as {{ eps = 1e-6, betas = [0.9, 0.99] }}"
        )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}


def seconds_of(time: str) -> float:
    """Convert a time such as 30s, 10m or 2h to seconds."""
    return float(time[:-1]) * _SECONDS[time[-1]]
