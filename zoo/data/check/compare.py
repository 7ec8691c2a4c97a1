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
        split: `train`, `val` or `test`; empty if zoo will split it into train and val.
        examined: Examination result of its file.
        group: Group as in `Sample`.
    """

    path: str
    labels: tuple[str, ...]
    split: str
    examined: Examined
    group: str | None = None

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
        leaks: Exact duplicates in both splits, with one label.
        duplicates: Exact duplicates within a split, with one label.
        near_leaks: A held-out image, or several with one hash, followed by the images of the other
            split of which it is the nearest; if there are none, by one that looks the same.
        near_conflicts: Near duplicates within a split with different labels, linked transitively.
        near_duplicates: Near duplicates within a split with one label, linked transitively.
        held_out: The split that is held out, `val` or `test`.
        against: The split that it is compared with, `train` or `val`.
    """

    conflicts: tuple[Group, ...]
    leaks: tuple[Group, ...]
    duplicates: tuple[Group, ...]
    near_leaks: tuple[Group, ...]
    near_conflicts: tuple[Group, ...]
    near_duplicates: tuple[Group, ...]
    held_out: str = "val"
    against: str = "train"


def compare_splits(photos: Sequence[Photo]) -> tuple[Comparison, ...]:
    """Compare train with val and, if there are test images, train and val with test.

    All groups within a split, and all conflicts, are in the first comparison. The others have leaks
    only. An image in several classes, in whatever splits, is not in other groups of exact
    duplicates.
    """
    test = [photo for photo in photos if photo.split == "test"]
    if not test:
        return (compare(photos),)
    readable = sorted((p for p in photos if p.used), key=lambda p: p.path)
    conflicts = tuple(
        group
        for group in _grouped(readable, lambda photo: photo.examined.content)
        if len({photo.label for photo in group}) > 1
    )
    conflicting = {photo.path for group in conflicts for photo in group}
    for group in conflicts:
        # Copies in test remain in a clean copy: what looks like them must not remain in train.
        kept = [photo for photo in group if photo.split == "test"]
        if len({photo.label for photo in kept}) == 1:
            conflicting.remove(kept[0].path)
    train, val, test = (
        [photo for photo in readable if photo.split in names and photo.path not in conflicting]
        for names in (("", "train"), ("val",), ("test",))
    )
    first = compare([*train, *val])
    second = compare([*train, *test], held_out="test")
    third = compare([*val, *test], held_out="test", against="val")

    def within(groups: Iterable[Group]) -> tuple[Group, ...]:
        return tuple(group for group in groups if group[0].split == "test")

    first = replace(
        first,
        conflicts=conflicts,
        duplicates=(*first.duplicates, *within(second.duplicates)),
        near_conflicts=(*first.near_conflicts, *within(second.near_conflicts)),
        near_duplicates=(*first.near_duplicates, *within(second.near_duplicates)),
    )
    none: tuple[Group, ...] = ()
    return (
        first,
        *(
            replace(each, duplicates=none, near_conflicts=none, near_duplicates=none)
            for each in (second, third)
        ),
    )


def compare(
    photos: Sequence[Photo], *, held_out: str = "val", against: str = "train"
) -> Comparison:
    """Find exact and near duplicates; unreadable images are skipped."""
    readable = sorted((p for p in photos if p.used), key=lambda p: p.path)
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
            remaining.append(next(photo for photo in group if photo.split == held_out))
            continue
        remaining.append(group[0])
        duplicates.append(group)
    near_leaks, near_conflicts, near_duplicates = _alike(remaining, held_out)
    return Comparison(
        conflicts=tuple(conflicts),
        leaks=tuple(leaks),
        duplicates=tuple(duplicates),
        near_leaks=near_leaks,
        near_conflicts=near_conflicts,
        near_duplicates=near_duplicates,
        held_out=held_out,
        against=against,
    )


def joined(
    found: Sequence[Comparison], pairs: Sequence[tuple[Photo, Photo]]
) -> tuple[Comparison, ...]:
    """Add pairs of images that look the same, found by other means, to the near duplicates."""
    return tuple(
        _joined(each, [pair for pair in pairs if _place(pair) == (each.held_out, each.against)])
        for each in found
    )


def _place(pair: tuple[Photo, Photo]) -> tuple[str, str]:
    """Return (held_out, against) of the comparison that a pair belongs to."""
    splits = {photo.split for photo in pair}
    if "test" not in splits or len(splits) == 1:
        return "val", "train"
    return "test", "val" if "val" in splits else "train"


def _joined(found: Comparison, pairs: Iterable[tuple[Photo, Photo]]) -> Comparison:
    leaks = [list(group) for group in found.near_leaks]
    of_held_out = {
        photo: group for group in leaks for photo in group if photo.split == found.held_out
    }
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
        held_out, like = (one, other) if one.split == found.held_out else (other, one)
        if held_out not in of_held_out:
            of_held_out[held_out] = [held_out]
            leaks.append(of_held_out[held_out])
        if like not in of_held_out[held_out]:
            of_held_out[held_out].append(like)
    return replace(
        found,
        near_leaks=tuple(map(tuple, leaks)),
        near_conflicts=_connected(conflicts),
        near_duplicates=_connected(duplicates),
    )


def look_alike(one: Examined, other: Examined) -> bool:
    """Return whether two images have the same content, or similar hashes."""
    if one.content == other.content:
        return True
    if not (one.looks and other.looks):
        return False
    return (int(one.looks, 16) ^ int(other.looks, 16)).bit_count() <= CLOSE


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


def _alike(photos: Sequence[Photo], held_out: str) -> tuple[tuple[Group, ...], ...]:
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
        _leaks(nodes, nearest, held_out),
        _groups(nodes, conflicting, np.ones_like(images)),
        _groups(nodes, same, images),
    )


def _leaks(nodes: Sequence[Group], nearest: NDArray[np.intp], held_out: str) -> tuple[Group, ...]:
    """Group each leaking held-out node with the nodes of the other split that are nearest to it.

    If there are none, group it with one image of its nearest node there. That node may be the
    nearest of thousands, so adding all its images to each group would make the groups huge.
    """
    leaked: dict[int, list[Photo]] = {}
    ends = [(n, int(nearest[n])) for n in np.flatnonzero(nearest != np.arange(len(nodes))).tolist()]
    for other, near in ends:
        if nodes[other][0].split != held_out:
            leaked.setdefault(near, []).extend(nodes[other])
    for own, near in ends:
        if nodes[own][0].split == held_out:
            leaked.setdefault(own, [nodes[near][0]])
    return tuple((*nodes[own], *others) for own, others in sorted(leaked.items()))


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
