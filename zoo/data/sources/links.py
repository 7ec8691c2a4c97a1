"""Links in a data folder: those that lead out of it or in circles are not followed."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoo.data.files import shown


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far a data folder reaches.

    Attributes:
        root: The folder, without links on the way to it.
        anywhere: Whether links may lead out of it.
    """

    root: str
    anywhere: bool


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link that is not followed.

    Attributes:
        path: The link, as it was found.
        target: Where it leads in the end; of one that leads nowhere, what it says.
        leads: `out` of the data folder; in a `circle`, to itself or a folder that it lies in;
            `nowhere`: to nothing, or to what may not be looked at.
    """

    path: str
    target: str
    leads: Literal["out", "circle", "nowhere"]


def reach_of(root: Path, *, follow_links: bool) -> Reach:
    """How far the data folder `root` reaches; it may itself be behind a link."""
    return Reach(root=os.path.realpath(root), anywhere=follow_links)


def refused_link(link: Path, reach: Reach) -> Link | None:
    """Why a link is not followed; None if it is.

    Args:
        link: To a file or a folder, in a folder that is within reach.
        reach: Of the data folder.
    """
    try:
        target = os.path.realpath(link, strict=True)
    except OSError as error:
        leads: Literal["circle", "nowhere"]
        leads = "circle" if error.errno == errno.ELOOP else "nowhere"
        return Link(path=str(link), target=_says(link), leads=leads)
    if Path(target).is_dir() and _is_within(os.path.realpath(link.parent), target):
        return Link(path=str(link), target=target, leads="circle")
    if not reach.anywhere and not _is_within(target, reach.root):
        return Link(path=str(link), target=target, leads="out")
    return None


def describe(found: Sequence[Link]) -> list[str]:
    """Which links are not followed and what to do: a line for each way to lead refused_links.

    Args:
        found: Of a data folder.
    """
    ways = {
        "out": "leading out of the data folder",
        "circle": "leading in a circle",
        "nowhere": "leading nowhere",
    }
    advice = {"out": "; `follow_links` uses what they lead to, or copy that into it"}
    lines = []
    for leads, way in ways.items():
        links = [link for link in found if link.leads == leads]
        if links:
            count = "1 link" if len(links) == 1 else f"{len(links):,} links"
            such = "" if len(links) == 1 else "such as "
            example = f"{such}{shown(links[0].path)} to {shown(links[0].target)}"
            lines.append(f"{count} {way}, {example}{advice.get(leads, '')}")
    return lines


def _is_within(path: str, folder: str) -> bool:
    # As text: pathlib takes longer for it than the system for looking at the link.
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _says(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # It is gone by now.
        return "nothing"
