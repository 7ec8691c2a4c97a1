"""Links in a data folder: those that lead out of it or in circles are not followed."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from zoo.data.issue import Issue, Kind


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far a data folder reaches.

    Attributes:
        root: The folder, without links on the way to it.
        anywhere: Whether links may lead out of it.
    """

    root: str
    anywhere: bool


def reach_of(root: Path, *, follow_links: bool) -> Reach:
    """How far the data folder `root` reaches; it may itself be behind a link."""
    return Reach(root=os.path.realpath(root), anywhere=follow_links)


def refused_link(link: Path, reach: Reach) -> Issue | None:
    """Why a link is not followed; None if it is.

    It is an `outside-link`; a `circular-link`, to itself or a folder that it lies in; or a
    `broken-link`, to nothing or to what may not be looked at.

    Args:
        link: To a file or a folder, in a folder that is within reach.
        reach: Of the data folder.
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
    # As text: pathlib takes longer for it than the system for looking at the link.
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _says(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # It is gone by now.
        return "nothing"
