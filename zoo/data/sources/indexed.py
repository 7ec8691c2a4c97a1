"""Archives and datasets of many images, whose samples are in columns that processes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from zoo.cache.keys import derived_key
from zoo.data.columns import (
    MANY,
    Item,
    Locate,
    columns_of_items,
    store_columns,
    stored_columns,
)
from zoo.data.issue import Issue
from zoo.data.sample import Sample
from zoo.data.sources.source import Part, Source, is_remote, issues_of


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A `Part` before its samples are made.

    Attributes:
        name: As of the part.
        items: What its samples are made of, in order.
        issues: As of the part.
    """

    name: str
    items: Sequence[Item]
    issues: Sequence[Issue] = ()


class ListedSource(Source, Protocol):
    """A source whose samples are made of items.

    Attributes:
        size: How many images it may have, about.
        locate: Finds the images of items.
    """

    size: int
    locate: Locate

    def listed(self, split: str) -> Listing:
        """List the samples of a split.

        Raises:
            DataError: They can't be listed.
        """


def part_of(listing: Listing, locate: Locate) -> Part:
    """Make the samples of a listing, each an object."""
    samples = [
        Sample(
            name=item.name,
            labels=item.labels,
            group=item.group,
            **locate(item.name, item.place),
        )
        for item in listing.items
    ]
    return Part(name=listing.name, samples=samples, issues=listing.issues)


def indexed_part(
    key: bytes, locate: Locate, listed: Callable[[], Listing], *, always: bool = False
) -> Part:
    """Return the samples of a listing, in columns if it is long.

    Args:
        key: Key of all that the listing is made of, by which it is kept in the cache; empty: it is
            made each time.
        locate: Finds the images.
        listed: Makes the listing.
        always: Whether few samples are in columns, too.

    Raises:
        DataError: The samples can't be listed.
    """
    if key and (part := _recalled(key, locate)):
        return part
    listing = listed()
    if len(listing.items) < MANY and not always:
        return part_of(listing, locate)
    if key:
        about = {"name": listing.name, "issues": _packed(listing.issues)}
        store_columns(key, {"samples": listing.items}, about)
        if part := _recalled(key, locate):
            return part
    samples = columns_of_items(listing.items, locate)
    return Part(name=listing.name, samples=samples, issues=listing.issues)


class IndexedSource:
    """A source of many images, which is opened only if it is not in the cache.

    Args:
        key: Key of all that the source is made of; empty: it is not kept in the cache.
        locate: Finds its images.
        about: Name, splits and issues of the source, as `_about` returns them.
        opened: Opens it.
    """

    def __init__(
        self,
        key: bytes,
        locate: Locate,
        about: Mapping[str, Any],
        opened: Callable[[], ListedSource],
    ) -> None:
        self._key, self._locate, self._opened = key, locate, opened
        self.name: str = about["name"]
        self.splits: Sequence[str] = tuple(about["splits"])
        self.issues = _unpacked(about["issues"])
        self.remote: bool = about["remote"]
        self.own_groups: bool = about["own_groups"]

    def read(self, split: str) -> Part:
        """Read a split as the source does.

        Raises:
            DataError: The samples can't be listed.
        """
        key = derived_key(self._key, split) if self._key else b""
        return indexed_part(key, self._locate, lambda: self._opened().listed(split), always=True)


def open_indexed(key: bytes, locate: Locate, opened: Callable[[], ListedSource]) -> Source:
    """Open a source, or take it from the cache; with few images, it is as it is.

    Args:
        key: As of `IndexedSource`.
        locate: As of `IndexedSource`.
        opened: As of `IndexedSource`.

    Raises:
        DataError: It can't be opened.
    """
    if key and (known := recall(key)) is not None:
        return IndexedSource(key, locate, known, opened)
    source = opened()
    if source.size < MANY:
        return source
    about = _about(source)
    remember(key, about)
    return IndexedSource(key, locate, about, lambda: source)


def recall(key: bytes) -> Mapping[str, Any] | None:
    """Return what `remember` has kept; None if nothing."""
    found = stored_columns(key, lambda about: Path()) if key else None
    return None if found is None else found[1]


def remember(key: bytes, about: Mapping[str, Any]) -> None:
    """Keep facts in the cache; does nothing with an empty key."""
    if key:
        store_columns(key, {}, about)


def _about(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "splits": [*source.splits],
        "issues": _packed(issues_of(source)),
        "remote": is_remote(source),
        "own_groups": getattr(source, "own_groups", False),
    }


def _recalled(key: bytes, locate: Locate) -> Part | None:
    found = stored_columns(key, lambda about: locate)
    if found is None:
        return None
    by_split, about = found
    issues = _unpacked(about["issues"])
    return Part(name=about["name"], samples=by_split["samples"], issues=issues)


def _packed(issues: Sequence[Issue]) -> list[dict[str, Any]]:
    return [asdict(issue) for issue in issues]


def _unpacked(issues: Sequence[Mapping[str, Any]]) -> tuple[Issue, ...]:
    return tuple(Issue(**each) for each in issues)
