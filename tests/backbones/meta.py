"""Build networks without memory or initial values: what a sweep over all of them needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torchvision.models.regnet import BlockParams

from zoo.testing.subject import no_initialisation


@contextlib.contextmanager
def no_values() -> Iterator[None]:
    """Modules built in here are on the meta device, and their initialisation does nothing.

    A network takes some 0.2 s then, whatever its size.
    """
    widths = mock.patch.object(BlockParams, "from_init_params", _regnet_widths)
    with no_initialisation(), widths, torch.device("meta"):
        yield


_from_init_params = BlockParams.from_init_params


def _regnet_widths(*args: Any, **kwargs: Any) -> BlockParams:
    """RegNet reads the widths of its blocks from a tensor, which must therefore have values."""
    with torch.device("cpu"):
        return _from_init_params(*args, **kwargs)
