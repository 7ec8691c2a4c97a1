"""Which images of a data folder are the same, or look the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.data.doctor.examine import HASH_SIZE, Examined
from zoo.data.doctor.hamming import close_pairs
from zoo.data.extensions import misnamed

#: Images look the same if their hashes differ in at most so many of 256 bits (docs/data.md).
CLOSE = 30


@dataclass(frozen=True, kw_only=True)
class Photo:
    """An image of a data folder.

    Attributes:
        path: Below the folder, with `/`.
        label: Its class.
        split: `train` or `val`; empty where zoo is still to split.
        examined: What its file holds.
    """

    path: str
    label: str
    split: str
    examined: Examined

    @property
    def misnamed(self) -> bool:
        """Whether it is an image of another format than its extension says."""
        form = self.examined.format
        return not self.examined.problem and misnamed(self.path, form) is not None

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
        near_leaks: One or more of val, then those of train that look the same.
        near_conflicts: Within a split, looking the same under several labels.
        near_duplicates: Within a split, looking the same under one label.
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
        if len({photo.label for photo in group}) > 1:
            conflicts.append(group)
            continue
        by_split = _grouped(group, lambda photo: photo.split)
        if len(by_split) > 1:
            leaks.append(group)
            remaining.append(next(photo for photo in group if photo.split == "val"))
            continue
        remaining.append(group[0])
        if len(group) > 1:
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
    leaked: dict[int, list[int]] = {}
    conflicting: list[tuple[int, int]] = []
    same = [(n, n) for n, node in enumerate(nodes) if len(node) > 1]
    for one, other in close_pairs(hashes, CLOSE).tolist():
        first, second = nodes[one][0], nodes[other][0]
        if first.split != second.split:
            val, train = (one, other) if first.split == "val" else (other, one)
            leaked.setdefault(val, []).append(train)
        elif first.label != second.label:
            conflicting.append((one, other))
        else:
            same.append((one, other))
    near_leaks = [
        (*nodes[val], *(photo for train in trains for photo in nodes[train]))
        for val, trains in sorted(leaked.items())
    ]
    return (
        tuple(near_leaks),
        *(
            tuple(
                tuple(sorted((p for n in each for p in nodes[n]), key=lambda p: p.path))
                for each in _connected(edges)
            )
            for edges in (conflicting, same)
        ),
    )


def _connected(edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups of numbers that edges connect, over others too."""
    leader: dict[int, int] = {}

    def lead(number: int) -> int:
        path = []
        while leader.setdefault(number, number) != number:
            path.append(number)
            number = leader[number]
        leader.update(dict.fromkeys(path, number))
        return number

    for one, other in edges:
        leader[lead(one)] = lead(other)
    groups: dict[int, list[int]] = {}
    for number in sorted(leader):
        groups.setdefault(lead(number), []).append(number)
    return list(groups.values())


def _grouped(photos: Iterable[Photo], key: Callable[[Photo], Hashable]) -> list[Group]:
    groups: dict[Hashable, list[Photo]] = {}
    for photo in photos:
        groups.setdefault(key(photo), []).append(photo)
    return [tuple(group) for group in groups.values()]
