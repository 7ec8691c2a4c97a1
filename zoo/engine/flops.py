"""How much a network computes for an image."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def flops_per_image(model: nn.Module, images: Tensor, *, backward: bool = False) -> float:
    """Floating-point operations of one image: of matrix multiplication, convolution and attention.

    A multiply-add is two. torch's `FlopCounterMode` counts, on a copy without values: nothing is
    computed, no random number drawn, and the model stays as it is.

    Args:
        model: In the mode in which it will run.
        images: (N, C, H, W) of the size in question; N at least 2 if batch norm trains.
        backward: Count also the gradients of all that trains.
    """
    # It brings a compiler for GPUs along, which nothing before this waits for.
    from torch.utils.flop_counter import FlopCounterMode

    tensors: dict[int, Any] = {
        id(t): _without_values(t) for t in chain(model.parameters(), model.buffers())
    }
    model = copy.deepcopy(model, tensors)
    convolution_backward = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    counter = FlopCounterMode(display=False, custom_mapping=convolution_backward)
    # Also where nothing goes backward: the counter trips over views made without gradients.
    with counter, torch.enable_grad():
        outputs = model(torch.empty_like(images, device="meta"))
        if backward:
            each = outputs if isinstance(outputs, tuple) else (outputs,)
            torch.stack([output.sum() for output in each]).sum().backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops() / len(images)


def _without_values(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _convolution_backward_flops(
    grad_out_shape: Sequence[int],
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: Sequence[bool],
    **shapes: Any,
) -> int:
    """Each gradient takes what the forward pass takes; torch's own count overlooks groups."""
    from torch.utils.flop_counter import conv_flop_count

    forward = conv_flop_count(list(x_shape), list(w_shape), list(grad_out_shape), transposed)
    return forward * sum(output_mask[:2])
