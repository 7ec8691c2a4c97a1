"""Compute only the part of a network after its frozen layers, from cached activations.

The network's own forward pass is replayed. Modules that are called before the boundary are skipped,
the module at the boundary returns the cached activations, and everything after it is computed as
usual. Nothing is traced or rewritten, so arbitrary Python in the forward pass, mixed precision and
wrappers for several processes work as usual.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from zoo.errors import BoundaryError

Forward = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Description of a floating-point tensor with a row for each image.

    Attributes:
        shape: Shape of one row.
        dtype: Data type of the tensor.
        layout: Dimensions of the tensor, from the outermost in memory to the innermost.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a module during a forward pass.

    Attributes:
        path: Path of the module.
        nth: Index of the call among those of the module, from 0.
        is_input: Whether `value` is the first argument, in a tuple; else it is the output.
        value: The value, with `Rows` instead of tensors; None if these can't describe it.
    """

    path: str
    nth: int
    is_input: bool
    value: Any


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Where a network is split, as found by `find_boundary`.

    It is valid for the frozen part and the image size that it was found with.

    Attributes:
        name: Display name: the path of the module whose output it is, or "the input of" one.
        shape: Shape of the activations of one image.
        dtype: Data type in which the network computes them.
        image_size: (height, width) of the images.
        call: The call whose value the activations are.
        before: The preceding calls, which replaying skips.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    image_size: tuple[int, int]
    call: Call
    before: tuple[Call, ...]


def activations(model: nn.Module, boundary: Boundary, images: Tensor) -> Tensor:
    """Compute the activations at the boundary in eval mode, and nothing after it.

    Args:
        model: The boundary's model. Its modes are restored afterwards.
        boundary: Where to stop.
        images: (N, C, H, W), on the model's device.

    Returns:
        (N, *boundary.shape), without a gradient.

    Raises:
        BoundaryError: If the forward pass does not reach the boundary.
    """
    call = boundary.call
    own = model.get_submodule(call.path).forward

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise _Reached(args[:1] if call.is_input else own(*args, **kwargs))

    stops = {call.path: _in_turn(own, {call.nth: stop})}
    with _eval_mode(model), torch.no_grad(), _forwards(model, stops):
        try:
            model(images)
        except _Reached as reached:
            (result,) = tensors_in(reached.value)
            return result
    raise BoundaryError(
        f"the forward pass does not reach {boundary.name}, the end of the frozen part"
    )


def replay(
    model: nn.Module, boundary: Boundary, activations: Tensor, forward: Forward | None = None
) -> Any:
    """Compute the model's output for a batch from its activations at the boundary.

    Args:
        model: The boundary's model, in the mode in which `find_boundary` got it, or eval.
        boundary: Where the activations were computed.
        activations: (N, *boundary.shape), of any floating dtype and on any device. They are copied
            to the model's device, in the dtype and memory layout in which it computes them.
        forward: What to call instead of the model: a wrapper of it (DistributedDataParallel).

    Returns:
        The model's output for N images: logits (N, classes), in train mode perhaps a tuple.
    """
    device = next(model.parameters()).device
    images = _nan(len(activations), (3, *boundary.image_size), torch.float32, device)
    with _forwards(model, _stubs(model, boundary, activations, device)):
        return (forward or model)(images)


def tensors_in(value: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


@contextmanager
def keep_modes(model: nn.Module) -> Iterator[None]:
    """Restore the train or eval mode of each module on exit."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the modules that are in train mode into eval mode until exit."""
    # For each batch: `nn.Module.eval` takes as long as some layers, even if nothing is to change.
    changed = [module for module in model.modules() if module.training]
    for module in changed:
        module.training = False
    try:
        yield
    finally:
        for module in changed:
            module.training = True


class _Reached(Exception):
    """Ends a forward pass at the boundary."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _stubs(
    model: nn.Module, boundary: Boundary, activations: Tensor, device: torch.device
) -> dict[str, Forward]:
    """Return a replacement for the forward of each module that is called up to the boundary."""
    count = len(activations)
    in_turn: dict[str, dict[int, Forward]] = defaultdict(dict)
    for call in boundary.before:
        # Some networks change the head's input in place, which an expanded tensor doesn't allow.
        dense = boundary.call.is_input and call is boundary.before[-1]
        in_turn[call.path][call.nth] = _nan_forward(call.value, count, device, dense)
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
    """Return a forward that uses `by_call` for the nth call, and the module's own for others."""
    count = 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        nth, count = count, count + 1
        return by_call.get(nth, own)(*args, **kwargs)

    return forward


def _nan_forward(value: Any, count: int, device: torch.device, dense: bool) -> Forward:
    def rows(rows: Rows) -> Tensor:
        nan = _nan(count, rows.shape, rows.dtype, device)
        return nan.contiguous() if dense else nan

    return lambda *_, **__: tree_map_only(Rows, rows, value)


def _nan(count: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (count, *shape) of a single NaN in memory: no cost, and any use is detected."""
    return torch.full((), math.nan, dtype=dtype, device=device).expand(count, *shape)


def _laid_out(activations: Tensor, rows: Rows, device: torch.device) -> Tensor:
    """Copy the activations, as the network may change them, in its own memory layout."""
    shape = (len(activations), *rows.shape)
    copy = torch.empty_permuted(shape, rows.layout, dtype=rows.dtype, device=device)
    return copy.copy_(activations)


@contextmanager
def _forwards(model: nn.Module, by_path: Mapping[str, Forward]) -> Iterator[None]:
    """Temporarily replace the forward of modules."""
    with ExitStack() as stack:
        for path, forward in by_path.items():
            stack.enter_context(forward_as(model.get_submodule(path), forward))
        yield


@contextmanager
def forward_as(module: nn.Module, forward: Forward) -> Iterator[None]:
    """Temporarily replace the forward pass of a module."""
    own = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own
