"""Folders on object storage, read by listing them once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from zoo.data.remote import Address, RemoteFile, read_image
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
        load=lambda name: partial(read_image, by_name[name], name),
        stamp=lambda name: by_name[name].key,
        holder=lambda name: None,
        issues=tuple(left_out(folder, unsafe, "names that lead out of the folder, or with //")),
    )
