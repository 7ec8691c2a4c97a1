"""What recipe fields that take several forms may hold."""

from __future__ import annotations

import re
from itertools import pairwise

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?[smh]", re.ASCII)


def check_freeze(value: object) -> object:
    """A number of depths, or a stage's name.

    Raises:
        ValueError: It is neither.
    """
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not good and not (isinstance(value, str) and value):
        raise ValueError(
            f"freeze = {value!r}: give none, backbone, a number of depths from 1 on, or a stage"
        )
    return value


def check_unfreeze_epoch(value: object) -> object:
    """An epoch from 2 on, several that rise, or None; a list becomes a tuple.

    Raises:
        ValueError: It is none of these.
    """
    if value is None:
        return None
    # TOML has lists only, and what is frozen holds none.
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
    """A number of steps, or a time such as 30s, 10m or 2h.

    Raises:
        ValueError: It is neither.
    """
    steps = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not steps and not (isinstance(value, str) and _DURATION.fullmatch(value)):
        raise ValueError(
            f"checkpoint_every = {value!r}: give a number of steps from 1 on, "
            f"or a time such as 30s, 10m or 2h"
        )
    return value


def check_time(value: object) -> object:
    """A time such as 30s, 10m or 2h, or None.

    Raises:
        ValueError: It is neither.
    """
    if value is None or (
        isinstance(value, str) and _DURATION.fullmatch(value) and seconds_of(value) > 0
    ):
        return value
    raise ValueError(f"time = {value!r}: give a time such as 30s, 10m or 2h")


def seconds_of(time: str) -> float:
    """A time such as 30s, 10m or 2h, in seconds."""
    return float(time[:-1]) * _SECONDS[time[-1]]
