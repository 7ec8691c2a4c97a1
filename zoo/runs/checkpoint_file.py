"""Checkpoint files of a run in safetensors format, verified and written atomically."""

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
from zoo.io.parse import parse_json
from zoo.io.text import clip
from zoo.weights import tensors_sha256
from zoo.weights.header import read_header

CHECKPOINT = "checkpoint"

#: Files in `checkpoint/`: the training state to resume from, and the keys of the run's images.
LAST, DATA = "last.safetensors", "data.safetensors"

#: Lock file in `checkpoint/`, held by the process that writes the run.
LOCK = ".lock"

#: Version of the checkpoint layout.
FORMAT = "1"

#: Names of temporary files that `zoo.io.files.replacing` and safetensors write to.
_UNFINISHED = re.compile(r"\.[A-Za-z]+\.[a-z]+\.[a-z0-9_]{8}|\.tmp[A-Za-z0-9]{6}")

#: Seconds for which the data loader workers of a killed run may outlive it and hold its lock.
ORPHANS = 15.0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Contents of a checkpoint file: tensors, and all other state as parsed from JSON."""

    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]


def write_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], *, name: str = LAST
) -> None:
    """Write a checkpoint to a temporary file, verify it, then replace the previous checkpoint.

    Tensors may share memory; `about` is JSON-serializable.

    Raises:
        RunError: If writing fails (disk full, no permission). The previous checkpoint is intact.
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
    """Read and verify a run's checkpoint.

    Raises:
        RunError: If it is missing, damaged, or in the format of another version of zoo.
    """
    if not _is_there(folder / CHECKPOINT / name):
        raise RunError(f"no run to resume at {folder}: there is no {CHECKPOINT}/{name}")
    return _read(folder / CHECKPOINT / name)


def has_checkpoint(folder: Path) -> bool:
    """Return whether the run folder contains a checkpoint.

    Raises:
        RunError: If permissions do not allow checking.
    """
    return _is_there(folder / CHECKPOINT / LAST)


@contextmanager
def holding(folder: Path, *, patience: float = 0) -> Iterator[None]:
    """Lock the run folder against other processes; wait so many seconds for one that has it.

    Raises:
        RunError: If another process holds the lock, or the lock file can't be created.
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
    # Outside the try above, so that errors of the caller are not reported as lock errors.
    try:
        yield
    finally:
        lock.release()


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files left by a killed process; the caller must hold the lock.

    Raises:
        RunError: If the folder can't be listed or the files can't be removed.
    """
    try:
        for place in (folder, folder / CHECKPOINT):
            for left in place.iterdir() if place.is_dir() else ():
                if is_unfinished(left):
                    left.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"can't use the run folder {folder}: {error.strerror}") from error


def is_unfinished(path: Path) -> bool:
    """Return whether a path is a temporary file left by a process killed while writing a run."""
    return bool(_UNFINISHED.fullmatch(path.name)) and path.is_file() and not path.is_symlink()


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError as error:
        # Returning False would let another run start in this folder.
        raise RunError(f"can't read {path}: {error.strerror}") from error
    except (OSError, ValueError):
        return False
    return is_file(path)


def _read(path: Path) -> Checkpoint:
    try:
        read_header(path)  # Checks size limits before the file is parsed.
        with safe_open(path, framework="pt") as content:
            details = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except OSError as error:
        raise RunError(f"can't read {path}: {error.strerror or clip(str(error))}") from error
    except (SafetensorError, ValueError) as error:
        raise RunError(f"{path} is not a readable checkpoint: {clip(str(error))}") from error
    if details.get("zoo_checkpoint") != FORMAT:
        raise RunError(f"{path} is not a checkpoint that this version of zoo reads")
    text = details.get("about", "")
    if _sha256(tensors, text) != details.get("sha256"):
        raise RunError(f"{path} is damaged: it is not what was written")
    try:
        about = parse_json(text)
    except ValueError as error:
        raise RunError(f"{path} can't be understood: {clip(str(error))}") from error
    if not isinstance(about, dict):
        raise RunError(f"{path} can't be understood: its metadata is not a JSON object")
    return Checkpoint(tensors=tensors, about=about)


def _sha256(tensors: Mapping[str, Tensor], text: str) -> str:
    return hashlib.sha256(f"{tensors_sha256(tensors)} {text}".encode()).hexdigest()


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU tensors without shared memory, which safetensors refuses."""
    apart: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage().data_ptr()
        apart[name] = own.clone() if storage in seen else own
        seen.add(storage)
    return apart


def _system_error(error: SafetensorError) -> str:
    """Extract the operating system's message from an error of safetensors."""
    found = re.search(r"error: ([^:]+?) \(os error", str(error))
    return found[1] if found else str(error)
