import os
import platform
import time
from pathlib import Path

import pytest
import torch

from zoo.machine.speed import device_name, matmul_peak, peak_memory

CPU = torch.device("cpu")


def test_the_peak_is_reached_by_no_single_product():
    peak = matmul_peak(CPU, seconds=0.2)
    a = torch.rand(384, 384)
    started = time.perf_counter()
    torch.mm(a, a)
    assert peak > 1e9
    assert 2 * 384**3 / (time.perf_counter() - started) < 2 * peak


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere it has another name or none")
def test_the_device_has_a_name():
    assert device_name(CPU) not in ("", platform.node())


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_memory_is_at_least_what_is_held_now():
    held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    # The kernel counts in batches.
    assert 0.9 * held <= peak_memory(CPU) < 100 * held
