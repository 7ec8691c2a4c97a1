"""Detection of exact and near duplicates among the images of a data folder."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from zoo.data.check.examine import HASH_SIZE, Examined
from zoo.data.check.hamming import close_pairs
from zoo.data.sources import extensions

#: Maximum Hamming distance, of 256 bits, at which images are near duplicates (docs/data.md).
CLOSE = 30


@dataclass(frozen=True, kw_only=True)
class Photo:
    """An image of a data folder.

    Attributes:
        path: Path relative to the folder, with `/`.
        labels: Names of its classes.
        split: `train` or `val`; empty if zoo will split.
        examined: Examination result of its file.
    """

    path: str
    labels: tuple[str, ...]
    split: str
    examined: Examined

    @property
    def label(self) -> str:
        """The names of its classes, joined."""
        return " + ".join(self.labels)

    @property
    def wrong_extension(self) -> bool:
        """Whether the image format differs from its extension."""
        # Computed, not stored, so that it stays right after a rename or with another zoo version.
        return self.used and extensions.is_wrong(self.path, self.examined.format)

    @property
    def used(self) -> bool:
        """Whether training uses it."""
        return not self.examined.problem


Group = tuple[Photo, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Groups of exact duplicates (identical bytes) and near duplicates (similar hashes).

    An image is in at most one of the first three. Near duplicates are searched among the images
    that remain after each of those groups is reduced to what `zoo data check --fix-to` keeps.

    Attributes:
        conflicts: Exact duplicates with different labels.
        leaks: Exact duplicates in train and val, with one label.
        duplicates: Exact duplicates within a split, with one label.
        near_leaks: A val image, or several with one hash, followed by the train images of which it
            is the nearest in val; if there are none, by one train image that looks the same.
        near_conflicts: Near duplicates within a split with different labels, linked transitively.
        near_duplicates: Near duplicates within a split with one label, linked transitively.
    """

    conflicts: tuple[Group, ...]
    leaks: tuple[Group, ...]
    duplicates: tuple[Group, ...]
    near_leaks: tuple[Group, ...]
    near_conflicts: tuple[Group, ...]
    near_duplicates: tuple[Group, ...]


def compare(photos: Sequence[Photo]) -> Comparison:
    """Find exact and near duplicates; unreadable images are skipped."""
    readable = sorted((p for p in photos if not p.examined.problem), key=lambda p: p.path)
    conflicts: list[Group] = []
    leaks: list[Group] = []
    duplicates: list[Group] = []
    remaining: list[Photo] = []
    for group in _grouped(readable, lambda photo: photo.examined.content):
        if len(group) == 1:
            remaining += group
            continue
        if len({photo.label for photo in group}) > 1:
            conflicts.append(group)
            continue
        by_split = _grouped(group, lambda photo: photo.split)
        if len(by_split) > 1:
            leaks.append(group)
            remaining.append(next(photo for photo in group if photo.split == "val"))
            continue
        remaining.append(group[0])
        duplicates.append(group)
    near_leaks, near_conflicts, near_duplicates = _alike(remaining)
    return Comparison(
        conflicts=tuple(conflicts),
        leaks=tuple(leaks),
        duplicates=tuple(duplicates),
        near_leaks=near_leaks,
        near_conflicts=near_conflicts,
        near_duplicates=near_duplicates,
    )


def joined(found: Comparison, pairs: Iterable[tuple[Photo, Photo]]) -> Comparison:
    """Add pairs of images that look the same, found by other means, to the near duplicates."""
    leaks = [list(group) for group in found.near_leaks]
    of_val = {photo: group for group in leaks for photo in group if photo.split == "val"}
    conflicts: list[Group] = [*found.near_conflicts]
    duplicates: list[Group] = [*found.near_duplicates]
    exact = {
        photo: n
        for n, group in enumerate((*found.conflicts, *found.leaks, *found.duplicates))
        for photo in group
    }
    for one, other in pairs:
        if one in exact and exact[one] == exact.get(other):
            continue
        if one.split == other.split:
            (duplicates if one.label == other.label else conflicts).append((one, other))
            continue
        val, train = (one, other) if one.split == "val" else (other, one)
        if val not in of_val:
            of_val[val] = [val]
            leaks.append(of_val[val])
        if train not in of_val[val]:
            of_val[val].append(train)
    return replace(
        found,
        near_leaks=tuple(map(tuple, leaks)),
        near_conflicts=_connected(conflicts),
        near_duplicates=_connected(duplicates),
    )


def components(count: int, pairs: Iterable[tuple[int, int]]) -> NDArray[np.intp]:
    """Return the smallest member (count,) of the connected component of each of `count` items."""
    leaders = np.arange(count)
    ends = np.array(list(pairs), dtype=np.intp).reshape(-1, 2)
    _join(leaders, ends[:, 0], ends[:, 1])
    return leaders


def _connected(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Merge groups that share an image."""
    number: dict[Photo, int] = {}
    for group in groups:
        for photo in group:
            number.setdefault(photo, len(number))
    pairs = [(number[group[0]], number[photo]) for group in groups for photo in group[1:]]
    merged: dict[int, list[Photo]] = {}
    for photo, leader in zip(number, components(len(number), pairs).tolist(), strict=True):
        merged.setdefault(leader, []).append(photo)
    return tuple(tuple(sorted(group, key=lambda photo: photo.path)) for group in merged.values())


def _alike(photos: Sequence[Photo]) -> tuple[tuple[Group, ...], ...]:
    """Return near leaks, near conflicts and near duplicates among images of different content."""
    # Images with the same hash, split and label form one node, compared with the others once.
    nodes = _grouped(
        [photo for photo in photos if photo.examined.looks],
        lambda photo: (photo.examined.looks, photo.split, photo.label),
    )
    hashes = np.frombuffer(
        bytes.fromhex("".join(node[0].examined.looks for node in nodes)), dtype=np.uint8
    ).reshape(len(nodes), HASH_SIZE * HASH_SIZE // 8)
    splits = _numbered([node[0].split for node in nodes])
    labels = _numbered([node[0].label for node in nodes])
    conflicting, same = np.arange(len(nodes)), np.arange(len(nodes))
    # For each node: the nearest node of the other split, and its distance in bits.
    nearest, least = np.arange(len(nodes)), np.full(len(nodes), CLOSE + 1, np.uint16)
    for left, right, apart in close_pairs(hashes, CLOSE, splits, labels):
        leak = splits[left] != splits[right]
        conflict = ~leak & (labels[left] != labels[right])
        duplicate = ~leak & ~conflict
        _join(conflicting, left[conflict], right[conflict])
        _join(same, left[duplicate], right[duplicate])
        for one, other in ((left[leak], right[leak]), (right[leak], left[leak])):
            _keep_nearest(nearest, least, one, other, apart[leak])
    images = np.array([len(node) for node in nodes], dtype=np.intp)
    return (
        _leaks(nodes, nearest),
        _groups(nodes, conflicting, np.ones_like(images)),
        _groups(nodes, same, images),
    )


def _leaks(nodes: Sequence[Group], nearest: NDArray[np.intp]) -> tuple[Group, ...]:
    """Group each leaking val node with the train nodes of which it is the nearest.

    If there are none, group it with one image of its nearest train node. That node may be the
    nearest of thousands, so adding all its images to each group would make the groups huge.
    """
    leaked: dict[int, list[Photo]] = {}
    ends = [(n, int(nearest[n])) for n in np.flatnonzero(nearest != np.arange(len(nodes))).tolist()]
    for train, val in ends:
        if nodes[train][0].split != "val":
            leaked.setdefault(val, []).extend(nodes[train])
    for val, train in ends:
        if nodes[val][0].split == "val":
            leaked.setdefault(val, [nodes[train][0]])
    return tuple((*nodes[val], *trains) for val, trains in sorted(leaked.items()))


def _groups(
    nodes: Sequence[Group], leaders: NDArray[np.intp], counts: NDArray[np.intp]
) -> tuple[Group, ...]:
    """Group the images of nodes with the same leader, if their counts add up to more than one."""
    members: dict[int, list[Photo]] = {}
    shared = np.bincount(leaders, counts)[leaders] > 1
    for n in np.flatnonzero(shared).tolist():
        members.setdefault(int(leaders[n]), []).extend(nodes[n])
    return tuple(tuple(sorted(group, key=lambda photo: photo.path)) for group in members.values())


def _join(leaders: NDArray[np.intp], left: NDArray[np.intp], right: NDArray[np.intp]) -> None:
    """Merge connected components (union-find); the leader of each is its smallest index."""
    while True:
        one, other = leaders[left], leaders[right]
        apart = one != other
        if not apart.any():
            return
        left, right, one, other = left[apart], right[apart], one[apart], other[apart]
        np.minimum.at(leaders, np.maximum(one, other), np.minimum(one, other))
        while (above := leaders[leaders]).tobytes() != leaders.tobytes():
            leaders[:] = above


def _keep_nearest(
    nearest: NDArray[np.intp],
    least: NDArray[np.uint16],
    one: NDArray[np.intp],
    other: NDArray[np.intp],
    apart: NDArray[np.uint16],
) -> None:
    """Set `other` as the nearest of `one` where its distance is less than the current one."""
    np.minimum.at(least, one, apart)
    found = apart == least[one]
    nearest[one[found]] = other[found]


def _numbered(names: Sequence[str]) -> NDArray[np.intp]:
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names], dtype=np.intp)


def _grouped(photos: Iterable[Photo], key: Callable[[Photo], Hashable]) -> list[Group]:
    groups: dict[Hashable, list[Photo]] = {}
    for photo in photos:
        groups.setdefault(key(photo), []).append(photo)
    return [tuple(group) for group in groups.values()]
