"""Paths of zoo's own files, file checks, and atomic file replacement."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def home() -> Path:
    """Return zoo's own folder: `$ZOO_HOME`, else `zoo` in the user's cache folder."""
    if os.environ.get("ZOO_HOME"):
        return Path(os.environ["ZOO_HOME"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "zoo"


def expand(path: str | Path) -> Path:
    """Expand a leading `~` or `~user`; return the path unchanged if that home is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def exists(path: Path) -> bool:
    """Return whether the path exists; False also if that can't be determined."""
    try:
        return path.exists()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Return whether the path is a file; False also if that can't be determined."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_dir(path: Path) -> bool:
    """Return whether the path is a folder; False also if that can't be determined."""
    try:
        return path.is_dir()
    except OSError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`, then sync it to disk and atomically replace `path`.

    The folder is synced too on exit, so that the new file survives a crash of the machine.

    Raises:
        OSError: If it can't be written. An existing file at `path` is left intact.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp creates private files; these should have the default permissions.
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)
        beside.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        # A failed removal must not hide the original error.
        with suppress(OSError):
            beside.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Other systems can't open a folder.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Some network file systems can't sync a folder.
            raise
    finally:
        os.close(handle)
