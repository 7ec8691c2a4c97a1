"""Search for pairs of hashes with a small Hamming distance, without comparing all pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

#: Number of bit permutations. For each, the hashes are sorted starting at every second byte.
_SHUFFLES = 3

#: Number of successors in sorted order with which each hash is compared.
_NEXT = 3

#: Indices of the first and the second hash of each pair, and their Hamming distances.
Pairs = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.uint16]]


def close_pairs(
    hashes: NDArray[np.uint8], within: int, splits: NDArray[np.intp], labels: NDArray[np.intp]
) -> Iterator[Pairs]:
    """Yield pairs of hashes that differ in at most `within` bits, in chunks.

    The hashes are sorted repeatedly under different bit permutations, and compared with their
    neighbours in sorted order (Charikar, 2002). Time and memory are near linear in their number,
    however many are similar: not all pairs are found then, but enough to connect similar hashes.

    Args:
        hashes: (N, bytes) uint8, with a multiple of 8 bytes.
        within: Maximum Hamming distance in bits.
        splits: (N,) split of each hash. A hash with close neighbours is also compared with the
            nearest ones in sorted order of another split, ...
        labels: (N,) label of each hash. ... of another label in its split, and of its own label.

    Yields:
        Pairs, each once or more often.
    """
    words = np.ascontiguousarray(np.ascontiguousarray(hashes).view(np.uint64).T)
    for order in _orders(hashes):
        ordered = words[:, order]
        crowded = np.zeros(len(order), bool)
        for shift in range(1, min(_NEXT, len(order) - 1) + 1):
            # Comparing half of the bits rules out nearly all candidates cheaply.
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
    """Yield sort orders of the hashes under different bit permutations; deterministic."""
    count, width = hashes.shape
    # One row per bit, so that the bits of a sort key are read contiguously.
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
            # With the index in their low bits all keys are distinct: every sort algorithm gives
            # the same order, and no argsort, which takes several times as long, is needed.
            keys = keys >> for_place << for_place | place
            keys.sort()
            yield (keys & ((np.uint64(1) << for_place) - np.uint64(1))).astype(np.intp)


def _changes(
    order: NDArray[np.intp], codes: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pair each item with its last predecessor and first successor in `order` of another code."""
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
