"""Parameters that a network has, but does not use: processes would wait for their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call


def without_gradient(
    model: nn.Module, trainable: Sequence[tuple[str, nn.Parameter]], images: Tensor
) -> list[str]:
    """Return the names of the parameters that get no gradient from a forward pass.

    Neither the model's buffers, nor its gradients, nor the random state of the CPU and of the
    images' device are changed.

    Args:
        model: The model, in the mode used for training.
        trainable: (name, parameter) of the parameters in question, which require gradients.
        images: (N, C, H, W) on the device; N is at least 2 if batch norms train.
    """
    devices = [images.device] if images.is_cuda else []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices), torch.enable_grad():
        outputs = functional_call(model, buffers, (images,))
        each = outputs if isinstance(outputs, tuple) else (outputs,)
        total = torch.stack([output.float().sum() for output in each]).sum()
        found = torch.autograd.grad(
            total, [parameter for _, parameter in trainable], allow_unused=True
        )
    pairs = zip(trainable, found, strict=True)
    return [name for (name, _), gradient in pairs if gradient is None]
