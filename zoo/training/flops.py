"""How much a network computes for an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def flops_per_image(model: nn.Module, images: Tensor, *, backward: bool = False) -> float:
    """Floating-point operations of one image: of matrix multiplication, convolution and attention.

    A multiply-add is two. torch's `FlopCounterMode` counts while the images are computed; the
    model's buffers, gradients and the state of the random numbers stay as they are. (Counting on
    the meta device computes nothing, but takes three times as long.)

    Args:
        model: In the mode in which it will run.
        images: (N, C, H, W) of the size in question; N at least 2 if batch norm trains.
        backward: Count also the gradients of all that trains.
    """
    # It brings a compiler for GPUs along, which nothing before this waits for.
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    convolution_backward = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    counter = FlopCounterMode(display=False, custom_mapping=convolution_backward)
    devices = [images.device] if images.is_cuda else []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # Fused attention has no formula on a CPU, and counts its recomputation on a GPU.
    plain_attention = sdpa_kernel(SDPBackend.MATH)
    # Also where nothing goes backward: the counter trips over views made without gradients.
    with torch.random.fork_rng(devices), plain_attention, counter, torch.enable_grad():
        outputs = functional_call(model, buffers, (images,))
        if backward:
            each = outputs if isinstance(outputs, tuple) else (outputs,)
            total = torch.stack([output.sum() for output in each]).sum()
            trained = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(total, trained, allow_unused=True)
    return counter.get_total_flops() / len(images)


def _convolution_backward_flops(
    grad_out_shape: Sequence[int],
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    *others: Any,
    **shapes: Any,
) -> int:
    """Each gradient takes what the forward pass takes; torch's own count overlooks groups."""
    from torch.utils.flop_counter import conv_flop_count

    _bias, _stride, _padding, _dilation, transposed, _out_padding, _groups, output_mask = others
    forward = conv_flop_count(list(x_shape), list(w_shape), list(grad_out_shape), transposed)
    return int(forward * sum(output_mask[:2]))
