"""Edited copies of images: crops and mirrored copies, by features and then by pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.check.alignment import CLEAR, alignment
from zoo.io.text import count, listed

#: Minimum cosine similarity of the features of copies (docs/data.md).
SIMILAR = 0.75

#: Number of most similar images with which an image is compared by pixels.
_NEIGHBOURS = 3

#: Maximum number of products of features for `find_copies_across`: some seconds on a CPU.
MOST_PRODUCTS = 2e11

#: Maximum number of pairs that `find_copies_across` compares by pixels, the most similar first.
MOST_PAIRS = 100

#: Rows of the similarity matrix computed at a time.
_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Positions, in order, of two images of which one is an edited copy of the other."""

    one: int
    other: int
    mirrored: bool
    similarity: float
    correlation: float


def find_copies(
    plain: Tensor, mirrored: Tensor, pixels: Callable[[list[int]], Tensor]
) -> list[Copy]:
    """Find pairs of images of which one is a crop of the other, or mirrored, or both.

    Each image is compared with the images of the most similar features. Two photos of one class
    have similar features too, so a pair counts only if one image also matches a part of the other.

    Args:
        plain: (N, C) float32 features of the images.
        mirrored: (N, C), of the mirrored images.
        pixels: Returns small images (M, 3, SIDE, SIDE) of these positions (`small_images`).

    Returns:
        The pairs, each once, ordered by position.
    """
    return _aligned(_candidates(plain, mirrored), pixels)


def find_copies_across(
    held_out: Tensor,
    train: Tensor,
    pixels: Callable[[list[int]], Tensor],
    known: Callable[[int, int], bool],
) -> tuple[list[Copy], int]:
    """Find pairs of a held-out and a train image of which one is a crop of the other, or mirrored.

    Features of mirrored images are not needed: those of an image and of its mirror image are
    similar, so the pixels of each pair are compared both ways.

    Args:
        held_out: (M, C) float32 features of the held-out images.
        train: (N, C), of the train images.
        pixels: As in `find_copies`; the train image n has the position M + n.
        known: Whether a pair (m, n) is known to be copies, and is left out.

    Returns:
        The pairs, each once, `one` being the position of the held-out image; and the number of
        similar pairs that were not compared by pixels, because others are more similar.
    """
    rows, others = (torch.nn.functional.normalize(each) for each in (held_out, train))
    similar: list[tuple[float, int, int]] = []
    for start in range(0, len(rows), _ROWS):
        products = rows[start : start + _ROWS] @ others.T
        nearest = products.topk(min(_NEIGHBOURS, len(others)), dim=1)
        values, indices = nearest.values.tolist(), nearest.indices.tolist()
        similar += [
            (value, start + row, index)
            for row in range(len(values))
            for value, index in zip(values[row], indices[row], strict=True)
            if value >= SIMILAR and not known(start + row, index)
        ]
    similar.sort(key=lambda each: (-each[0], *each[1:]))
    candidates = {
        (one, len(held_out) + other, mirrored): similarity
        for similarity, one, other in similar[:MOST_PAIRS]
        for mirrored in (False, True)
    }
    return _aligned(dict(sorted(candidates.items())), pixels), max(0, len(similar) - MOST_PAIRS)


def describe_copies(pairs: Sequence[tuple[str, str]]) -> str:
    """Describe val images that are edited copies of train images, by names (of val, of train)."""
    named = [f"{one} (of {other})" for one, other in pairs]
    images = len({one for one, _ in pairs})
    are = "is a crop or a mirrored copy" if images == 1 else "are crops or mirrored copies"
    return f"{count(images, 'val image')} {are} of train images, or the reverse: {listed(named)}"


def _aligned(
    candidates: Mapping[tuple[int, int, bool], float], pixels: Callable[[list[int]], Tensor]
) -> list[Copy]:
    """Return the pairs of which one image matches a part of the other, the better way of two."""
    positions = sorted({n for one, other, _ in candidates for n in (one, other)})
    if not positions:
        return []
    images = pixels(positions)
    row_of = {position: row for row, position in enumerate(positions)}
    one = images[[row_of[a] for a, _, _ in candidates]]
    other = torch.stack(
        [
            images[row_of[b]].flip(2) if is_mirrored else images[row_of[b]]
            for _, b, is_mirrored in candidates
        ]
    )
    found: dict[tuple[int, int], Copy] = {}
    correlations = alignment(one, other).tolist()
    for (key, similarity), correlation in zip(candidates.items(), correlations, strict=True):
        first, second, is_mirrored = key
        before = found.get((first, second))
        if correlation < CLEAR or (before and before.correlation >= correlation):
            continue
        found[first, second] = Copy(
            one=first,
            other=second,
            mirrored=is_mirrored,
            similarity=similarity,
            correlation=correlation,
        )
    return [found[key] for key in sorted(found)]


def _candidates(plain: Tensor, mirrored: Tensor) -> dict[tuple[int, int, bool], float]:
    """Return the similarity of each image to its nearest ones, by (position, larger one, mirrored).

    The mirrored copy of an image's mirrored copy is the image itself, so one side is enough.
    """
    rows, flipped = (torch.nn.functional.normalize(each) for each in (plain, mirrored))
    found: dict[tuple[int, int, bool], float] = {}
    for is_mirrored, others in ((False, rows), (True, flipped)):
        for start in range(0, len(rows), _ROWS):
            block = rows[start : start + _ROWS] @ others.T
            block[torch.arange(len(block)), torch.arange(start, start + len(block))] = -1
            nearest = block.topk(min(_NEIGHBOURS, len(rows)), dim=1)
            for row, column in torch.nonzero(nearest.values >= SIMILAR).tolist():
                one, other = start + row, int(nearest.indices[row, column])
                key = (min(one, other), max(one, other), is_mirrored)
                found[key] = max(found.get(key, -1.0), float(nearest.values[row, column]))
    return dict(sorted(found.items()))
