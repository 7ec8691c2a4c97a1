"""A run's checkpoint: one safetensors file, replaced only by one that is whole and verified."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.errors import RunError
from zoo.io.files import is_file, replacing
from zoo.io.parsing import parse_json
from zoo.io.text import clip
from zoo.weights import tensors_sha256
from zoo.weights.header import read_header

CHECKPOINT = "checkpoint"

#: What a run goes on from, and what it learns from: both below `checkpoint/`.
LAST, DATA = "last.safetensors", "data.safetensors"

#: Held by the process that writes the run.
LOCK = ".lock"

#: Version of the layout.
FORMAT = "1"

#: As `zoo.io.files.replacing` names what it writes; and as safetensors does, beside that.
_UNFINISHED = re.compile(r"\.[A-Za-z]+\.[a-z]+\.[a-z0-9_]{8}|\.tmp[A-Za-z0-9]{6}")

#: Seconds for which the loader processes of a killed run may outlive it, and hold its lock.
ORPHANS = 15.0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was read from a checkpoint file.

    Attributes:
        tensors: By name.
        about: The rest, as JSON gives it.
    """

    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]


def write_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], *, name: str = LAST
) -> None:
    """Write a checkpoint beside the last one, verify it, and only then put it in its place.

    Args:
        folder: The run folder.
        tensors: By name; some may share memory.
        about: The rest, JSON-ready.
        name: `LAST` or `DATA`.

    Raises:
        RunError: No space or no right to write; the last one is intact.
    """
    path = folder / CHECKPOINT / name
    apart = _apart(tensors)
    text = json.dumps(about, ensure_ascii=False)
    details = {"zoo_checkpoint": FORMAT, "about": text, "sha256": _sha256(apart, text)}
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as beside:
            save_file(apart, beside, metadata=details)
            _read(beside)
    except OSError as error:
        raise RunError(f"can't write {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise RunError(f"can't write {path}: {_system_error(error)}") from error


def read_checkpoint(folder: Path, name: str = LAST) -> Checkpoint:
    """The run's checkpoint, verified.

    Raises:
        RunError: There is none, it is damaged, or another zoo's.
    """
    if not _is_there(folder / CHECKPOINT / name):
        raise RunError(f"no run to resume at {folder}: there is no {CHECKPOINT}/{name}")
    return _read(folder / CHECKPOINT / name)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one in the run folder.

    Raises:
        RunError: There is no right to see that.
    """
    return _is_there(folder / CHECKPOINT / LAST)


@contextmanager
def holding(folder: Path, *, patience: float = 0) -> Iterator[None]:
    """Hold the run folder: no other process writes it meanwhile.

    Args:
        folder: The run folder.
        patience: Seconds to wait for another process.

    Raises:
        RunError: Another process holds it, or the lock can't be made.
    """
    path = folder / CHECKPOINT / LOCK
    lock = FileLock(path, timeout=patience)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"another process is writing the run folder {folder}; wait for it, or stop it first"
        ) from error
    except OSError as error:
        raise RunError(f"can't write the run folder {folder}: {error.strerror}") from error
    # What goes wrong while it is held is none of the lock's affair.
    try:
        yield
    finally:
        lock.release()


def remove_unfinished(folder: Path) -> None:
    """Take away files that a killed process was writing; the folder is held.

    Raises:
        RunError: They can't be looked for, or taken away.
    """
    try:
        for place in (folder, folder / CHECKPOINT):
            for left in place.iterdir() if place.is_dir() else ():
                if is_unfinished(left):
                    left.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"can't use the run folder {folder}: {error.strerror}") from error


def is_unfinished(path: Path) -> bool:
    """Whether it is a file of a run that was being written when its process was killed."""
    return bool(_UNFINISHED.fullmatch(path.name)) and path.is_file() and not path.is_symlink()


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError as error:
        # As if there were none would have another run begun.
        raise RunError(f"can't look at {path}: {error.strerror}") from error
    except (OSError, ValueError):
        return False
    return is_file(path)


def _read(path: Path) -> Checkpoint:
    try:
        read_header(path)  # Within bounds, before anything is made of it.
        with safe_open(path, framework="pt") as content:
            details = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except OSError as error:
        raise RunError(f"can't read {path}: {error.strerror or clip(str(error))}") from error
    except (SafetensorError, ValueError) as error:
        raise RunError(f"{path} is no readable checkpoint: {clip(str(error))}") from error
    if details.get("zoo_checkpoint") != FORMAT:
        raise RunError(f"{path} is no checkpoint that this zoo reads")
    text = details.get("about", "")
    if _sha256(tensors, text) != details.get("sha256"):
        raise RunError(f"{path} is damaged: it is not what was written")
    try:
        about = parse_json(text)
    except ValueError as error:
        raise RunError(f"{path} can't be understood: {clip(str(error))}") from error
    if not isinstance(about, dict):
        raise RunError(f"{path} can't be understood: it says nothing of a run")
    return Checkpoint(tensors=tensors, about=about)


def _sha256(tensors: Mapping[str, Tensor], text: str) -> str:
    return hashlib.sha256(f"{tensors_sha256(tensors)} {text}".encode()).hexdigest()


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, none sharing memory with another, which safetensors refuses."""
    apart: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage().data_ptr()
        apart[name] = own.clone() if storage in seen else own
        seen.add(storage)
    return apart


def _system_error(error: SafetensorError) -> str:
    """The system's own words in an error of safetensors, which wraps them up."""
    found = re.search(r"error: ([^:]+?) \(os error", str(error))
    return found[1] if found else str(error)
