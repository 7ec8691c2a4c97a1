"""The run folder with several processes: process 0 reads it, and all must see the same one."""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
import time
from pathlib import Path

from zoo.errors import RunError
from zoo.machine.processes import decide_early, exchange, is_main, together
from zoo.pipeline.compatibility import read_run
from zoo.runs.checkpoint_file import CHECKPOINT, Checkpoint, has_checkpoint

#: Seconds to wait until a file written by one process is visible to the others.
_PATIENCE = 5.0

#: Advice if a file never becomes visible.
_NEEDED = "give a folder that all processes of a run see"


def find_run(folder: Path, *, allow_new: bool = False) -> Checkpoint | None:
    """Return the checkpoint to resume from, as process 0 finds it; None if a new run is allowed.

    Raises:
        RunError: There is no checkpoint, it is damaged, or another process does not see it.
    """
    found: Checkpoint | None = None

    def look() -> str | None:
        nonlocal found
        if allow_new and not has_checkpoint(folder):
            return None
        found = read_run(folder)
        return _digest(found)

    def read_shared() -> Checkpoint:
        if found is not None:
            return found
        try:
            checkpoint = read_run(folder)
        except RunError as error:
            raise RunError(error.text, hint=_NEEDED) from error
        if _digest(checkpoint) != digest:
            raise RunError(f"{folder} holds another run than for process 0", hint=_NEEDED)
        return checkpoint

    digest = decide_early(look)
    return None if digest is None else together(read_shared)


def check_shared(folder: Path) -> None:
    """Check that all processes see the folder that the main process writes to.

    Raises:
        RunError: Some do not; raised in every process.
    """

    def write() -> str:
        # Named like an unfinished file, so that it is removed as one if this process is killed.
        name = f".shared.tmp.{secrets.token_hex(4)}"
        try:
            (folder / CHECKPOINT / name).touch()
        except OSError as error:
            raise RunError(f"can't write {folder / CHECKPOINT}: {error.strerror}") from error
        return name

    file = folder / CHECKPOINT / decide_early(write)
    everywhere = exchange((platform.node(), _appears(file)))
    if is_main():
        file.unlink(missing_ok=True)
    blind = [f"process {n} on {host}" for n, (host, seen) in enumerate(everywhere) if not seen]
    if blind:
        error = RunError(
            f"the run folder {folder}, made by process 0 on {everywhere[0][0]}, is not seen by "
            f"{', '.join(blind)}",
            hint=_NEEDED,
        )
        error.shared = True
        raise error


def _digest(checkpoint: Checkpoint) -> str:
    about = json.dumps(dict(checkpoint.about), sort_keys=True)
    return hashlib.sha256(about.encode()).hexdigest()


def _appears(file: Path) -> bool:
    """Return whether a file exists, after waiting for it: a network file system may be slow."""
    until = time.monotonic() + _PATIENCE
    while not file.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
