"""Find where to split a network, so that it can be trained from cached activations.

The output of the frozen part is the same for an image each time, so it is computed only once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import BoundaryError, PluginError
from zoo.machine.memory import is_out_of_memory, out_of_memory_as
from zoo.models.replay import (
    Boundary,
    Call,
    Forward,
    Rows,
    activations,
    keep_modes,
    replay,
    tensors_in,
)

#: Number of images in the recorded forward pass, and of other images in the compared ones. If the
#: first dimension of a tensor is 3, it is most likely the batch dimension.
_RECORDED, _COMPARED = 3, 2


@out_of_memory_as(
    "too little memory to try where the network can be cut", hint="try a smaller `image_size`"
)
def find_boundary(model: nn.Module, backbone: Backbone, *, image_size: tuple[int, int]) -> Boundary:
    """Find the last place at which one tensor holds everything the rest of the network needs.

    Candidates are the outputs of frozen modules and the inputs of the head's leaves. They are
    tried from the last to the first until one is valid: what `replay` computes for random images
    must equal the network's outputs, in eval and train mode (with the same random numbers for
    dropout). `replay` returns NaN for all other frozen outputs, so any use of them is detected,
    however small its weight. If trainable layers read several frozen ones (dense blocks, parallel
    branches), the boundary lies before the end of the frozen part.

    Args:
        model: As it is trained: frozen parameters don't require gradients (`freeze_parameters`),
            and frozen modules are in eval mode (`train_mode`). Its state is restored afterwards.
        backbone: Declares where the head is.
        image_size: (height, width) of the images.

    Raises:
        BoundaryError: If there is no boundary; the message gives the reason.
        TrainingError: If there is too little memory for three images.
    """
    device = next(model.parameters()).device
    noise = torch.Generator().manual_seed(0)
    shape = (backbone.preprocess.channels, *image_size)
    recorded, compared = (
        torch.randn(n, *shape, generator=noise).to(device) for n in (_RECORDED, _COMPARED)
    )
    calls = _record(model, backbone, recorded)
    expected = {training: _outputs(model, training, compared) for training in (True, False)}
    refusals = []
    for n, call in reversed(list(enumerate(calls))):
        rows = [leaf for leaf in tree_leaves(call.value) if isinstance(leaf, Rows)]
        if len(rows) != 1:
            continue
        boundary = Boundary(
            name=f"the input of {call.path}" if call.is_input else call.path,
            shape=rows[0].shape,
            dtype=rows[0].dtype,
            image_size=image_size,
            call=call,
            before=tuple(c for c in calls[:n] if c.value is not None and not c.is_input),
        )
        wrong = _wrong(model, backbone, boundary, compared, expected)
        if wrong is None:
            return boundary
        refusals.append(wrong)
    if not calls:
        reason = "none of its layers gives the same for an image each time"
    elif not refusals:
        reason = "none of its frozen layers gives a single tensor with a row for each image"
    else:
        reason = refusals[0] + (", and so at each place before it" if len(refusals) > 1 else "")
    raise BoundaryError(
        f"backbone {backbone.name} can't continue from cached activations: {reason}"
    )


def _record(model: nn.Module, backbone: Backbone, images: Tensor) -> list[Call]:
    """Record, in order, the calls at which a boundary can be or which it can skip.

    These are calls of the outermost modules in eval mode and of the head's leaves, if no trainable
    parameter contributes to their value.
    """
    calls: list[Call] = []
    counts: Counter[str] = Counter()
    inside = 0

    def note(path: str, value: Any, *, is_input: bool) -> None:
        nth, counts[path] = counts[path], counts[path] + 1
        if not any(tensor.requires_grad for tensor in tensors_in(value)):
            described = _described(value, len(images))
            calls.append(Call(path=path, nth=nth, is_input=is_input, value=described))

    def enter(*_: Any) -> None:
        nonlocal inside
        inside += 1

    def leave(path: str, output: Any) -> None:
        nonlocal inside
        inside -= 1
        if not inside:
            note(path, output, is_input=False)

    with _restored(model), torch.enable_grad(), ExitStack() as hooks:
        for path, module in model.named_modules():
            if path in backbone.head_paths:
                hook = module.register_forward_pre_hook(
                    lambda _, args, path=path: note(path, args[:1], is_input=True)
                )
            elif not any(m.training for m in module.modules()):
                hooks.callback(module.register_forward_pre_hook(enter).remove)
                hook = module.register_forward_hook(
                    lambda _, __, output, path=path: leave(path, output)
                )
            else:
                continue
            hooks.callback(hook.remove)
        model(images)
    return calls


def _described(value: Any, count: int) -> Any:
    """Replace tensors by `Rows`; return None if the value holds more than rows and scalars.

    A module with such an output is then executed when replaying, too.
    """
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            if not leaf.is_floating_point() or leaf.ndim < 2 or len(leaf) != count:
                return None
        elif not isinstance(leaf, int | float | str | None):
            return None
    return tree_map_only(Tensor, _rows, value)


def _rows(tensor: Tensor) -> Rows:
    strides = tensor.stride()
    layout = sorted(range(tensor.ndim), key=lambda dim: -strides[dim])
    return Rows(shape=tuple(tensor.shape[1:]), dtype=tensor.dtype, layout=tuple(layout))


def _wrong(
    model: nn.Module,
    backbone: Backbone,
    boundary: Boundary,
    images: Tensor,
    expected: Mapping[bool, list[Tensor]],
) -> str | None:
    """Return why the network can't be split at this boundary, or None if it can."""
    for training, outputs in expected.items():
        try:
            with plugins.blame(backbone, f"fails when cut at {boundary.name}"):
                cached = activations(model, boundary, images)
                found = _outputs(model, training, cached, lambda x: replay(model, boundary, x))
        except (PluginError, BoundaryError) as error:
            if error.__cause__ is not None and is_out_of_memory(error.__cause__):
                raise error.__cause__ from None
            return str(error)
        if any(output.isnan().any() for output in found):
            return f"what comes after {boundary.name} reads also what comes before it"
        if len(found) != len(outputs) or not all(map(_close, outputs, found)):
            mode = "train" if training else "eval"
            return f"in {mode} mode its outputs change when it is cut at {boundary.name}"
    return None


def _outputs(
    model: nn.Module, training: bool, given: Tensor, forward: Forward | None = None
) -> list[Tensor]:
    """Return all output tensors of the model, computed with a fixed random seed."""
    with _restored(model), torch.no_grad():
        torch.manual_seed(0)
        if not training:
            model.eval()
        return tensors_in((forward or model)(given))


def _close(one: Tensor, other: Tensor) -> bool:
    scale = float(one.abs().max())
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-5 * scale)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore modes, buffers (batch-norm statistics) and torch's random state on exit."""
    device = next(model.parameters()).device
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with forked, keep_modes(model):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
