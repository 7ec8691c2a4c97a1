"""Folders on object storage, read by listing them once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from zoo.data.remote import Address, RemoteFile, read_image
from zoo.data.sources.archive import Archive, left_out
from zoo.data.sources.tree import safe_name


def archive_of_files(folder: Address, files: Sequence[RemoteFile]) -> Archive:
    """Return the data folder that remote files make up.

    Args:
        folder: The folder.
        files: All files below it.
    """
    names: dict[str, int] = {}
    unsafe: list[str] = []
    for n, file in enumerate(files):
        name = file.address.removeprefix(f"{folder}/")
        if safe_name(name) == name:
            names[name] = n
        else:
            unsafe.append(name)
    return Archive(
        path=folder,
        names=tuple(names),
        place=lambda name: (names[name],),
        locate=partial(_located, files),
        issues=tuple(left_out(folder, unsafe, "names that lead out of the folder, or with //")),
    )


def _located(files: Sequence[RemoteFile], name: str, place: Sequence[int]) -> dict[str, Any]:
    file = files[place[0]]
    return {"load": partial(read_image, file, name), "stamp": file.key}
