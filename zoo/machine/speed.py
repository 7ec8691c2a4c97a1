"""The machine under a run: its device, how much it could compute, how much memory was used."""

from __future__ import annotations

import math
import platform
import sys
import time
from pathlib import Path

import torch

#: Sides of the first matrices that are multiplied; they double while there is time.
_SMALLEST_SIDE = 256


def matmul_peak(
    device: torch.device, *, dtype: torch.dtype = torch.float32, seconds: float = 0.25
) -> float:
    """The most floating-point operations a second that square matrix multiplication reaches.

    Best of several sizes and repeats, with torch's threads and settings as they are: on an NVIDIA
    GPU a float32 convolution may use TensorFloat-32, which matrices don't unless told to, and
    exceed it.

    Args:
        device: Where to compute.
        dtype: Of the matrices.
        seconds: About how long it may take.
    """
    side, repeats = _SMALLEST_SIDE, 0
    best, fastest = 0.0, math.inf
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        if repeats == 0:
            # Constants would flatter a GPU, whose clock follows the power that values take.
            values = torch.linspace(-1, 1, 2 * side * side, device=device, dtype=dtype)
            a, b = values.view(2, side, side)
            synchronise(device)
            started = time.perf_counter()
        torch.mm(a, b)
        synchronise(device)
        repeats += 1
        fastest = min(fastest, time.perf_counter() - started)
        best = max(best, 2 * side**3 / fastest)
        # Twice the side takes eight times as long.
        if repeats >= 4 and time.perf_counter() + 4 * 8 * fastest < end:
            side, repeats, fastest = 2 * side, 0, math.inf
    return best


def device_name(device: torch.device) -> str:
    """The model of the GPU or processor, in its maker's words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # Not on Linux.
        lines = []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has held: on CUDA in its tensors, elsewhere in all.

    Windows does not say: None.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024  # Linux counts in KiB.


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
