"""Go on from cached activations: compute only what comes after the frozen part of a network.

The network's own forward pass is replayed. Modules that were called before the boundary are passed
over, the one at the boundary gives the cached activations, and from there on all is computed as
ever. Nothing is traced or rewritten, so whatever Python a forward pass is made of, mixed precision
and wrappers for many processes work as they do without.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from zoo.errors import BoundaryError

Forward = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Describes a floating-point tensor with a row for each image.

    Attributes:
        shape: Of one row.
        dtype: Of the tensor.
        layout: Its dimensions from the outermost in memory to the innermost.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a module while the network computes.

    Attributes:
        path: The module's.
        nth: Which of its calls, from 0.
        is_input: Whether `value` is its first argument, in a tuple; else it is what came out.
        value: With `Rows` in the place of tensors; None if it holds what can't be told so.
    """

    path: str
    nth: int
    is_input: bool
    value: Any


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Where a network is cut in two; `find_boundary` finds it.

    It holds for the part that was frozen and the image size of then.

    Attributes:
        name: For people: the path of the module whose output it is, or "the input of" one.
        shape: Of one image's activations.
        dtype: That the network computes them in.
        image_size: (height, width) of the images.
        call: Whose value the activations are.
        before: The calls up to it that replaying passes over.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    image_size: tuple[int, int]
    call: Call
    before: tuple[Call, ...]


def activations(
    model: nn.Module, boundary: Boundary, images: Tensor, forward: Forward | None = None
) -> Tensor:
    """What flows through the boundary in eval mode; nothing after it is computed.

    Args:
        model: That the boundary is of. Afterwards it is as it was.
        boundary: Where to stop.
        images: (N, 3, H, W), on the model's device.
        forward: The model's own forward, where calling the model would do more (mixed precision).

    Returns:
        (N, *boundary.shape), without a gradient.

    Raises:
        BoundaryError: The model doesn't come to the boundary.
    """
    call = boundary.call
    own = model.get_submodule(call.path).forward

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise _Reached(args[:1] if call.is_input else own(*args, **kwargs))

    stops = {call.path: _in_turn(own, {call.nth: stop})}
    with modes_kept(model), torch.no_grad(), _forwards(model, stops):
        model.eval()
        try:
            (forward or model)(images)
        except _Reached as reached:
            (result,) = tensors_in(reached.value)
            return result
    raise BoundaryError(f"the network does not come to {boundary.name}, where it was to be cut")


def replay(
    model: nn.Module, boundary: Boundary, activations: Tensor, forward: Forward | None = None
) -> Any:
    """What the model gives for a batch, computed from its activations.

    Args:
        model: That the boundary is of, in the mode that `find_boundary` was given it in (or eval).
        boundary: Where the activations were taken.
        activations: (N, *boundary.shape), of any floating dtype and on any device. They are copied
            to the model's device, in the dtype and memory layout that its own would have.
        forward: What to call instead of the model: a wrapper of it (DistributedDataParallel).

    Returns:
        The model's output for N images: logits (N, classes), in train mode perhaps a tuple.
    """
    device = next(model.parameters()).device
    images = _nan(len(activations), (3, *boundary.image_size), torch.float32, device)
    with _forwards(model, _stubs(model, boundary, activations, device)):
        return (forward or model)(images)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put each module back into the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class _Reached(Exception):
    """Ends a forward pass at the boundary."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _stubs(
    model: nn.Module, boundary: Boundary, activations: Tensor, device: torch.device
) -> dict[str, Forward]:
    """What takes the place of the forward of each module that is called up to the boundary."""
    count = len(activations)
    in_turn: dict[str, dict[int, Forward]] = defaultdict(dict)
    for call in boundary.before:
        # Between the last layer and the head some networks work in place, on memory of its own.
        dense = boundary.call.is_input and call is boundary.before[-1]
        in_turn[call.path][call.nth] = _giving_nan(call.value, count, device, dense)
    at = boundary.call
    own = model.get_submodule(at.path).forward

    def give(*args: Any, **kwargs: Any) -> Any:
        value = tree_map_only(Rows, lambda rows: _laid_out(activations, rows, device), at.value)
        return own(*value, *args[1:], **kwargs) if at.is_input else value

    in_turn[at.path][at.nth] = give
    return {
        path: _in_turn(model.get_submodule(path).forward, by_call)
        for path, by_call in in_turn.items()
    }


def _in_turn(own: Forward, by_call: Mapping[int, Forward]) -> Forward:
    """At its nth call what `by_call` says; what it doesn't is left to the module's own."""
    count = 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        nth, count = count, count + 1
        return by_call.get(nth, own)(*args, **kwargs)

    return forward


def _giving_nan(value: Any, count: int, device: torch.device, dense: bool) -> Forward:
    def rows(rows: Rows) -> Tensor:
        nan = _nan(count, rows.shape, rows.dtype, device)
        return nan.contiguous() if dense else nan

    return lambda *_, **__: tree_map_only(Rows, rows, value)


def _nan(count: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(count, *shape) of one NaN in memory: it costs nothing, and whatever reads it shows."""
    return torch.full((), math.nan, dtype=dtype, device=device).expand(count, *shape)


def _laid_out(activations: Tensor, rows: Rows, device: torch.device) -> Tensor:
    """A copy, which the network may change, that lies in memory as its own output would."""
    shape = (len(activations), *rows.shape)
    copy = torch.empty_permuted(shape, rows.layout, dtype=rows.dtype, device=device)
    return copy.copy_(activations)


@contextmanager
def _forwards(model: nn.Module, by_path: Mapping[str, Forward]) -> Iterator[None]:
    """Give modules another forward, for a while."""
    with ExitStack() as stack:
        for path, forward in by_path.items():
            stack.enter_context(mock.patch.object(model.get_submodule(path), "forward", forward))
        yield
