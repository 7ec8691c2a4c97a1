"""What the pickles of a PyTorch file ask to run, read without running any of it."""

from __future__ import annotations

import io
import itertools
import pickletools
import re
import tarfile
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator
from pathlib import Path

#: Bytes of a pickle that are looked at; one of a network's weights has some hundred thousand.
_MOST = 2**20

#: A pickle that follows another is looked at too: older PyTorch files begin with three.
_MOST_PICKLES = 8

#: What plain tensors are made of.
_PLAIN = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.(storage\.)?\w*Storage|torch\.Size|torch\.nn\.parameter\.Parameter"
    r"|torch\.(b?float|q?u?int|complex|bool)\d*|torch\.device"
)

#: Modules as people know them; a pickle of an older protocol has Python 2's names.
_KNOWN_AS = {**IMPORT_MAPPING, "posix": "os", "nt": "os"}

_TEXT = frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}) | frozenset(
    {"STRING", "BINSTRING", "SHORT_BINSTRING"}
)


def refusal(path: Path) -> str | None:
    """Why a file that torch refused to read as plain tensors is refused, in words.

    Returns:
        What it asks to run, or what it is instead; None where it is neither.
    """
    try:
        pickles, kind = _pickles(path)
    except Exception:  # noqa: BLE001  archives raise whatever their bytes make them raise
        return None
    wanted = itertools.islice(dict.fromkeys(_globals_of(pickles)), 5)
    asked = ", ".join(wanted)
    if asked:
        return f"it asks to run {asked}" + (f", and it is {kind}" if kind else "")
    return f"it is {kind}" if kind else None


def inflated(path: Path) -> int:
    """Bytes that a zip archive's entries take unpacked; 0 for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except Exception:  # noqa: BLE001  as above; a file that is no archive is torch's to judge
        return 0


def is_program(path: Path) -> bool:
    """Whether the file is a TorchScript archive, which holds code to run."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # noqa: BLE001  as above
        return False


def _pickles(path: Path) -> tuple[list[bytes], str]:
    """The beginnings of the file's pickles, and what kind of file it is if no usual one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith(".pkl")]
            found = []
            for name in names[:3]:
                with archive.open(name) as entry:
                    found.append(entry.read(_MOST))
            program = any(name.endswith("/constants.pkl") for name in names)
            return found, "a TorchScript archive, a program" if program else ""
    if tarfile.is_tarfile(path):
        with tarfile.open(path, "r:") as tar:
            members = [m for m in itertools.islice(tar, _MOST_PICKLES) if m.isfile()]
            streams = (tar.extractfile(member) for member in members)
            content = [stream.read(_MOST) for stream in streams if stream is not None]
            return content, "in PyTorch's old tar format"
    with path.open("rb") as file:
        return [file.read(_MOST)], ""


def _globals_of(pickles: list[bytes]) -> Iterator[str]:
    for content in pickles:
        stream = io.BytesIO(content)
        for _ in range(_MOST_PICKLES):
            try:
                yield from _globals(stream)
            except Exception:  # noqa: BLE001  pickletools raises whatever the bytes make it raise
                break


def _globals(stream: io.BytesIO) -> Iterator[str]:
    """The functions and classes that one pickle names, but for those that plain tensors need."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    last: str | None = None
    for op, argument, _ in pickletools.genops(stream):
        if op.name in ("GLOBAL", "INST"):
            yield from _asked(*str(argument).partition(" ")[::2])
        elif op.name == "STACK_GLOBAL":
            yield from _asked(*(texts[-2:] if len(texts) > 1 else ("a function", "not named")))
        elif op.name.startswith("EXT"):
            yield f"extension {argument} of copyreg"
        if op.name == "MEMOIZE" and last is not None:
            memo[len(memo)] = last
        elif op.name == "MEMOIZE":
            memo[len(memo)] = ""
        elif op.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(str(argument))] = last or ""
        else:
            last = None
        if op.name in _TEXT:
            last = str(argument)
        elif op.name in ("GET", "BINGET", "LONG_BINGET"):
            last = memo.get(int(str(argument))) or None
        if last is not None and op.name not in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            texts = [*texts[-1:], last]


def _asked(module: str, name: str) -> Iterator[str]:
    full = f"{_KNOWN_AS.get(module, module)}.{name}"
    if not _PLAIN.fullmatch(full):
        yield full[:100]
