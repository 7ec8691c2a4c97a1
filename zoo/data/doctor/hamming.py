"""Pairs of hashes that differ in few bits, without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

#: Candidates looked at at once: some 100 MB.
_AT_ONCE = 1 << 22


def close_pairs(hashes: NDArray[np.uint8], within: int) -> NDArray[np.int64]:
    """The pairs of hashes that differ in at most `within` bits.

    Multi-index hashing (Norouzi, Punjani and Fleet, 2012): of two such hashes one 16-bit part at
    least differs in one bit or in none, so only hashes that agree so far in a part are compared.

    Args:
        hashes: (N, bytes) with a multiple of 8 bytes.
        within: Fewer than twice as many as there are 16-bit parts.

    Returns:
        (P, 2), each pair once, the smaller index first, in order.

    Raises:
        ValueError: `within` is too large for that search.
    """
    width = hashes.shape[1]
    if within >= width:
        raise ValueError(f"hashes of {width} bytes can be searched within {width - 1} bits")
    # One row a word or part, so that each is read in one go.
    words = np.ascontiguousarray(np.ascontiguousarray(hashes).view(np.uint64).T)
    parts = np.ascontiguousarray(np.ascontiguousarray(hashes).view(np.uint16).T)
    found = [np.empty((0, 2), np.int64)]
    for part in parts:
        for left, right in _agreeing(part):
            apart = np.zeros(len(left), np.int64)
            # Most are far apart in the first words, and need not be looked up in the others.
            for word in words:
                apart += np.bitwise_count(word[left] ^ word[right])
                close = apart <= within
                left, right, apart = left[close], right[close], apart[close]
            found.append(np.stack([left, right], axis=1))
        found = [np.unique(np.concatenate(found), axis=0)]
    return found[0]


def _agreeing(
    part: NDArray[np.uint16],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs (i < j) whose parts differ in one bit or in none, some millions at a time."""
    order = np.argsort(part, kind="stable")
    # Where in that order the hashes with each of the 65,536 values of the part begin.
    begins = np.concatenate([[0], np.cumsum(np.bincount(part, minlength=1 << 16))])
    for flip in (0, *(1 << bit for bit in range(16))):
        wanted = part.astype(np.int64) ^ flip
        first = begins[wanted]
        counts = begins[wanted + 1] - first
        ends = np.cumsum(counts)
        start = 0
        while start < len(part):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE, "right")))
            here = counts[start:stop]
            left = np.repeat(np.arange(start, stop), here)
            nth = np.arange(len(left)) - np.repeat(np.cumsum(here) - here, here)
            right = order[np.repeat(first[start:stop], here) + nth]
            once = left < right
            yield left[once], right[once]
            start = stop
