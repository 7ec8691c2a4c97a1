"""Properties of the machine: device name, peak throughput and memory use."""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

#: Side of the first matrices that are multiplied; it is doubled while there is time.
_SMALLEST_SIDE = 256


def matmul_peak(
    device: torch.device, *, dtype: torch.dtype = torch.float32, seconds: float = 0.25
) -> float:
    """Measure the peak throughput of square matrix multiplication, in FLOP/s.

    The result is the best of several sizes and repeats, with torch's current threads and settings.
    On an NVIDIA GPU, a float32 convolution may exceed it, because by default convolutions use
    TensorFloat-32 but matrix multiplications don't.
    """
    side, repeats = _SMALLEST_SIDE, 0
    best, fastest = 0.0, math.inf
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        if repeats == 0:
            # With constants a GPU would be faster: its clock depends on the power that values need.
            values = torch.linspace(-1, 1, 2 * side * side, device=device, dtype=dtype)
            a, b = values.view(2, side, side)
            synchronise(device)
            started = time.perf_counter()
        torch.mm(a, b)
        synchronise(device)
        repeats += 1
        fastest = min(fastest, time.perf_counter() - started)
        best = max(best, 2 * side**3 / fastest)
        # Doubling the side takes eight times as long.
        if repeats >= 4 and time.perf_counter() + 4 * 8 * fastest < end:
            side, repeats, fastest = 2 * side, 0, math.inf
    return best


def device_name(device: torch.device) -> str:
    """Return the manufacturer's name of the GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # Not on Linux.
        lines = []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> int | None:
    """Return this process' peak memory in bytes: on CUDA of tensors, elsewhere in total.

    On Windows it is not available: None.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024  # Linux counts in KiB.


def memory_in_use(device: torch.device) -> int | None:
    """Return the memory in bytes in use now: on CUDA by tensors, on Linux by this process.

    On other systems it is not available: None.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    _return_freed_memory()
    return _of_process("VmRSS")


def peak_during(work: Callable[[], object], device: torch.device) -> int | None:
    """Call `work` and return the peak during it of what `memory_in_use` returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    _return_freed_memory()
    try:
        # Sets the peak to what is in use now (proc_pid_clear_refs(5)).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # Not on Linux, or not allowed.
        work()
        return None
    work()
    return _of_process("VmHWM")


def _of_process(name: str) -> int | None:
    """Return a figure of /proc/self/status in bytes; None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(f"{name}:")]
    return int(found[0][1]) * 1024 if found else None


def _return_freed_memory() -> None:
    """Have glibc return freed memory to the system, so that it does not count as used."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all queued operations."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
