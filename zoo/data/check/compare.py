"""Which images of a data folder are the same, or look the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.data.check.examine import HASH_SIZE, Examined
from zoo.data.check.hamming import close_pairs
from zoo.data.sources import extensions

#: Images look the same if their hashes differ in at most so many of 256 bits (docs/data.md).
CLOSE = 30


@dataclass(frozen=True, kw_only=True)
class Photo:
    """An image of a data folder.

    Attributes:
        path: Below the folder, with `/`.
        labels: Its classes.
        split: `train` or `val`; empty where zoo is still to split.
        examined: What its file holds.
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
        """Whether it is an image of another format than its extension says."""
        # Judged each time, so that a rename or another zoo finds no old judgement.
        return self.used and extensions.is_wrong(self.path, self.examined.format)

    @property
    def used(self) -> bool:
        """Whether training uses it."""
        return not self.examined.problem


Group = tuple[Photo, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Groups of images that are the same to the byte, or look the same.

    An image is in one of the first three at most. What looks the same is sought among the images
    that remain when, of each of those groups, only what `zoo data check --fix-to` keeps is left.

    Attributes:
        conflicts: The same under several labels.
        leaks: The same in train and in val, under one label.
        duplicates: The same within a split, under one label.
        near_leaks: One of val, or several of one hash, then those of train that look like it more
            than like others of val; where there are none, one that looks the same.
        near_conflicts: Within a split, looking the same under several labels, over others too.
        near_duplicates: Within a split, looking the same under one label, over others too.
    """

    conflicts: tuple[Group, ...]
    leaks: tuple[Group, ...]
    duplicates: tuple[Group, ...]
    near_leaks: tuple[Group, ...]
    near_conflicts: tuple[Group, ...]
    near_duplicates: tuple[Group, ...]


def compare(photos: Sequence[Photo]) -> Comparison:
    """Find the images that are the same, or look the same; unreadable ones are passed over."""
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


def _alike(photos: Sequence[Photo]) -> tuple[tuple[Group, ...], ...]:
    """Near leaks, near conflicts and near duplicates, among images of different content."""
    # What differs neither in its hash nor in split and label is compared with the others once.
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
    # Of each node, the node of the other split that differs least, and in how many bits.
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
    """Of val each node that leaks, with the nodes of train that it is the nearest of.

    Where it is that of none, with one image of the nearest in train: a node of train may be the
    nearest of thousands, and with all of its images in each of their groups these would be many.
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
    """The images of the nodes that share a leader, where their counts come to more than one."""
    members: dict[int, list[Photo]] = {}
    shared = np.bincount(leaders, counts)[leaders] > 1
    for n in np.flatnonzero(shared).tolist():
        members.setdefault(int(leaders[n]), []).extend(nodes[n])
    return tuple(tuple(sorted(group, key=lambda photo: photo.path)) for group in members.values())


def _join(leaders: NDArray[np.intp], left: NDArray[np.intp], right: NDArray[np.intp]) -> None:
    """Let each pair have the same leader, the smallest index of all that are connected."""
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
    """Note `other` as the nearest of `one` where it differs less than what is noted."""
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
