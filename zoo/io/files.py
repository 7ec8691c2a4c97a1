"""Where zoo's own files lie, and files that are whole or not there."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def home() -> Path:
    """Zoo's folder for files of its own: `$ZOO_HOME`, else `zoo` in the user's cache folder."""
    if os.environ.get("ZOO_HOME"):
        return Path(os.environ["ZOO_HOME"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "zoo"


def expand(path: str | Path) -> Path:
    """The path with a leading `~` or `~user` as that home folder; as it is where none is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def exists(path: Path) -> bool:
    """Whether there is something of that name; False too where that can't be known."""
    try:
        return path.exists()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a file; False too where that can't be known."""
    try:
        return path.is_file()
    except OSError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write into; synced to disk, and only then put in its place.

    When this ends the folder is synced too, so that the new file survives a crash of the machine.

    Raises:
        OSError: It can't be written; an older file of that name is intact.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; these are to be shared as any other.
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)
        beside.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        # Where the folder can't be written any more it stays; what went wrong is what to say.
        with suppress(OSError):
            beside.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Elsewhere a folder can't be opened.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Some network file systems have no such thing.
            raise
    finally:
        os.close(handle)
