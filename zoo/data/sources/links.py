"""Symbolic links in a data folder; those that lead out of it or in circles are not followed."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from zoo.data.issue import Issue, Kind


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Which link targets are allowed for a data folder.

    Attributes:
        root: Resolved path of the folder.
        anywhere: Whether links may lead out of it.
    """

    root: str
    anywhere: bool


def reach_of(root: Path, *, follow_links: bool) -> Reach:
    """Return the reach of the data folder `root`, which may itself be a link."""
    return Reach(root=os.path.realpath(root), anywhere=follow_links)


def refused_link(link: Path, reach: Reach) -> Issue | None:
    """Return the issue of a link that is not followed; None if it is followed.

    The kind is `outside-link`; `circular-link`, to itself or a folder that contains it; or
    `broken-link`, to a missing or inaccessible target.

    Args:
        link: Link to a file or a folder, in a folder that is within reach.
        reach: Reach of the data folder.
    """
    kind: Kind
    try:
        target = os.path.realpath(link, strict=True)
    except OSError as error:
        kind = "circular-link" if error.errno == errno.ELOOP else "broken-link"
        target = _says(link)
    else:
        if Path(target).is_dir() and _is_within(os.path.realpath(link.parent), target):
            kind = "circular-link"
        elif not reach.anywhere and not _is_within(target, reach.root):
            kind = "outside-link"
        else:
            return None
    return Issue(kind=kind, name=str(link), reason=f"leads to {target}")


def _is_within(path: str, folder: str) -> bool:
    # Compared as text, because pathlib takes longer than reading the link.
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _says(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # It has been deleted since.
        return "nothing"
