"""Which device computes, and how tensors lie in its memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.machine.memory import out_of_memory_as


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA if there is one, else Apple's MPS, else the CPU.

    Raises:
        TrainingError: This machine has no such device.
    """
    available = [
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
        "cpu",
    ]
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        raise TrainingError(
            f"device {name} is not available to torch {torch.__version__} on this machine; "
            f"there is: {', '.join(available)}"
        )
    return torch.device(name)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to a device, its convolutions laid out channels-last where that is faster.

    Measured on two AVX2 cores, efficientnet_lite0 trains 1.7 times as fast so, resnet18 1.1 times.

    Raises:
        TrainingError: The device's memory is too small for it.
    """
    with out_of_memory_as(
        f"{device} has too little memory for the network", hint="try a smaller backbone"
    ):
        # torch's type declarations lack this overload.
        model.to(device, memory_format=_memory_format(device))  # type: ignore[call-overload]
    return model


def place_images(images: Tensor, device: torch.device) -> Tensor:
    """Move a batch (N, C, H, W) to a device, laid out as `place` lays out the model."""
    return images.to(device, non_blocking=True, memory_format=_memory_format(device))


def _memory_format(device: torch.device) -> torch.memory_format:
    return torch.contiguous_format if device.type == "mps" else torch.channels_last
