"""Edited copies of images: crops and mirrored copies, by features and then by pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.check.alignment import CLEAR, alignment

#: Minimum cosine similarity of the features of copies (docs/data.md).
SIMILAR = 0.75

#: Number of most similar images with which an image is compared by pixels.
_NEIGHBOURS = 3

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
    candidates = _candidates(plain, mirrored)
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
