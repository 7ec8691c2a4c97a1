import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from zoo import allocator

if sys.argv[1] == "tuned":
    allocator.tune()
np.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(allocator.state())
"""


def run(how, **environment):
    command = [sys.executable, "-c", SCRIPT, how]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PATH": "", **environment}
    )
    faults, state = done.stdout.splitlines()
    return int(faults), state


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_a_tuned_allocator_keeps_large_blocks():
    """Twenty times 128 MiB, freed and asked for again."""
    kept, state = run("tuned")
    assert state == "glibc, tuned to keep up to 256 MiB of freed memory"
    mapped, state = run("as it is")
    assert state == "the system's own settings"
    assert kept < mapped / 10


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
@pytest.mark.medium
def test_settings_of_the_environment_win():
    faults, state = run("tuned", MALLOC_TRIM_THRESHOLD_="131072")
    assert state == "as the environment says"
    assert faults > 10_000
