"""Number of floating-point operations of a network per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def flops_per_image(model: nn.Module, images: Tensor, *, backward: bool = False) -> float:
    """Count the operations of matrix multiplication, convolution and attention for one image.

    A multiply-add counts as two. torch's `FlopCounterMode` counts while the images are computed;
    the model's buffers, its gradients and the random state are not changed. (Counting on the meta
    device computes nothing, but takes three times as long.)

    Args:
        model: The model, in the mode to be measured.
        images: (N, C, H, W), of the size to be measured; N is at least 2 if batch norms train.
        backward: Also count the gradients of all trainable parameters.
    """
    # Imported late, because this loads a compiler for GPUs.
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    convolution_backward = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    counter = FlopCounterMode(display=False, custom_mapping=convolution_backward)
    devices = [images.device] if images.is_cuda else []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # The counter ignores fused attention on a CPU, and counts its recomputation on a GPU.
    plain_attention = sdpa_kernel(SDPBackend.MATH)
    # Gradients are enabled in any case: the counter fails on views made without them.
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
    """Count each gradient like the forward pass; torch's own formula ignores groups."""
    from torch.utils.flop_counter import conv_flop_count

    _bias, _stride, _padding, _dilation, transposed, _out_padding, _groups, output_mask = others
    forward = conv_flop_count(list(x_shape), list(w_shape), list(grad_out_shape), transposed)
    return int(forward * sum(output_mask[:2]))
