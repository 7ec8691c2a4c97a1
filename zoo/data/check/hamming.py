"""Pairs of hashes that differ in few bits, without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

#: How often the bits are shuffled. The hashes are then sorted from each second byte on.
_SHUFFLES = 3

#: With how many that follow it in a sort each hash is compared.
_NEXT = 3

#: Indices of the first and of the second hashes of pairs, and in how many bits they differ.
Pairs = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.uint16]]


def close_pairs(
    hashes: NDArray[np.uint8], within: int, splits: NDArray[np.intp], labels: NDArray[np.intp]
) -> Iterator[Pairs]:
    """Pairs of hashes that differ in at most `within` bits, in pieces.

    The hashes are sorted again and again, by other bits first each time, and compared with their
    neighbours there (Charikar, 2002). So time and memory grow with their number, however many are
    alike: then not every pair is found, but enough of them to connect those that are alike.

    Args:
        hashes: (N, bytes) with a multiple of 8 bytes.
        within: Bits.
        splits: Of each hash. One among many that are alike is compared with the nearest in the
            sort of another split too, ...
        labels: ... of another label within its split, and of its own.

    Yields:
        Pairs, each once or more often.
    """
    words = np.ascontiguousarray(np.ascontiguousarray(hashes).view(np.uint64).T)
    for order in _orders(hashes):
        ordered = words[:, order]
        crowded = np.zeros(len(order), bool)
        for shift in range(1, min(_NEXT, len(order) - 1) + 1):
            # Half of the bits tells nearly all of those apart that are no pairs.
            half = ordered[: len(words) // 2 or 1]
            left = np.flatnonzero(_apart(half[:, :-shift], half[:, shift:]) <= within)
            left, right, apart = _close(ordered, left, left + shift, within)
            crowded[left] = crowded[right] = True
            yield order[left], order[right], apart
        places = np.flatnonzero(crowded)
        split, label = splits[order[places]], labels[order[places]]
        by_split = np.argsort(split, kind="stable")
        by_kind = np.lexsort((label, split))
        for one, other in (
            (by_kind[:-1], by_kind[1:]),
            *_changes(np.arange(len(places)), split),
            *_changes(by_split, label),
        ):
            left, right, apart = _close(ordered, places[one], places[other], within)
            yield order[left], order[right], apart


def _orders(hashes: NDArray[np.uint8]) -> Iterator[NDArray[np.intp]]:
    """The hashes sorted by other bits each time; the same ones whenever this is called."""
    count, width = hashes.shape
    # One row a bit, so that those of a sort are read in one go.
    bits = np.ascontiguousarray(np.unpackbits(hashes, axis=1).T)
    random = np.random.default_rng(0)
    place = np.arange(count, dtype=np.uint64)
    for_place = np.uint64(count.bit_length())
    for _ in range(_SHUFFLES):
        parts = random.permutation(8 * width).reshape(width, 8)
        shuffled = np.stack([np.packbits(bits[part], axis=0)[0] for part in parts])
        for start in range(0, width, 2):
            chosen = shuffled[np.arange(start, start + 8) % width]
            keys = np.ascontiguousarray(chosen.T).view("<u8")[:, 0].astype(np.uint64)
            # With the place in its low bits each key is another one: any algorithm sorts them
            # alike, and no argsort, which takes several times as long, is needed.
            keys = keys >> for_place << for_place | place
            keys.sort()
            yield (keys & ((np.uint64(1) << for_place) - np.uint64(1))).astype(np.intp)


def _changes(
    order: NDArray[np.intp], codes: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Each with the last before it, and the first after it, in an order, of another code."""
    starts = np.flatnonzero(np.diff(codes[order])) + 1
    if len(starts):
        lengths = np.diff(starts, prepend=0, append=len(order))
        yield order[np.repeat(starts - 1, lengths[1:])], order[starts[0] :]
        yield order[: starts[-1]], order[np.repeat(starts, lengths[:-1])]


def _close(
    words: NDArray[np.uint64], left: NDArray[np.intp], right: NDArray[np.intp], within: int
) -> Pairs:
    apart = _apart(words[:, left], words[:, right])
    close = apart <= within
    return left[close], right[close], apart[close]


def _apart(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint16]:
    apart: NDArray[np.uint16] = np.bitwise_count(one ^ other).sum(axis=0, dtype=np.uint16)
    return apart
