"""Folders on object storage, read by listing them once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from zoo.data.remote import Address, RemoteFile, missing, read_image
from zoo.data.sources.archive import Archive, left_out
from zoo.data.sources.tree import safe_name


def archive_of_files(folder: Address, files: Sequence[RemoteFile]) -> Archive:
    """Return the data folder that remote files make up.

    Args:
        folder: The folder.
        files: All files below it.
    """
    by_name: dict[str, RemoteFile] = {}
    unsafe: list[str] = []
    for file in files:
        name = file.address.removeprefix(f"{folder}/")
        if safe_name(name) == name:
            by_name[name] = file
        else:
            unsafe.append(name)
    return Archive(
        path=folder,
        names=tuple(by_name),
        place=lambda name: place_of_file(by_name[name]),
        locate=at_address,
        issues=tuple(left_out(folder, unsafe, "names that lead out of the folder, or with //")),
    )


def place_of_file(file: RemoteFile | None) -> tuple[str, int, str]:
    """Return the place of a file, of which `at_address` makes the function that reads it.

    Args:
        file: The file; None: it is missing.
    """
    return ("", 0, "") if file is None else (file.address, file.size, file.version)


def at_address(name: str, place: Sequence[Any]) -> Mapping[str, Any]:
    """Find an image by its address, size and version; without an address, it is missing."""
    address, size, version = place
    if not address:
        return {"load": partial(_raise_missing, name)}
    file = RemoteFile(address, size, version)
    return {"load": partial(read_image, file, name), "stamp": file.key}


def _raise_missing(name: str) -> bytes:
    raise missing(name)
