"""Stores as any caller would open them, and other processes that do."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pytest

from zoo.cache import image_key, open_store

ABOUT = {"backbone": "timm/test_efficientnet", "size": 32}


def key(n):
    return image_key(str(n).encode())


def row(n, size=64):
    """The array that belongs to key(n), so that a wrong one is told from it."""
    return np.random.default_rng(n).random(size, np.float32)


def features(**about):
    return open_store("features", ABOUT | about, dtype=np.float32)


def filled(count, **about):
    """The path of a store of so many rows, closed again."""
    with features(**about) as store:
        store.append((key(n), row(n)) for n in range(count))
        return store.path


def right_rows(store, count):
    """Which of the first so many rows it has; each is the right one."""
    found = [n for n in range(count) if key(n) in store]
    for n in found:
        npt.assert_array_equal(store.get(key(n)), row(n))
    return found


PRELUDE = """
import sys
import numpy as np
import numpy.testing as npt
from tests.cache.conftest import features, filled, key, right_rows, row
"""


@pytest.fixture
def other_process():
    """Start Python in another process; what is still running at the end is killed."""
    root = os.fspath(Path(__file__).parents[2])
    running = []

    def start(code):
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([root, *sys.path])},
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.send_signal(signal.SIGKILL)
        process.communicate()
