"""A service in a process of its own."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(run: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Start `zoo serve` on a free port; the process, and its address."""
    command = [sys.executable, "-m", "zoo", "serve", str(run), "--port=0", "--device=cpu", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://\S+/", line):
                yield process, found[0]
                break
        else:
            raise AssertionError("".join(said))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
