"""Labelled images and their split into train and val."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from zoo.data.extensions import Misnamed
from zoo.data.files import Fingerprint
from zoo.data.links import Link

if TYPE_CHECKING:
    from zoo.data.check.examine import Examined
    from zoo.data.image import ValueRange


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled image.

    Attributes:
        name: Path below the data folder, with `/`: the image's identity for splits and randomness.
        labels: Indices into the class names, ascending; not just one if the task is multi-label.
        image: Its file, the decoded picture, or its base, (H, W, 3) uint8 (`zoo.data.prepare`).
        content: What the file held when it was first read; None where that doesn't matter.
    """

    name: str
    labels: tuple[int, ...]
    image: Path | Image.Image | np.ndarray
    content: Fingerprint | None = None


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Labelled images, split.

    Attributes:
        class_names: In the order of the labels; made from train alone.
        train: Images to learn from.
        val: Held-out images.
        notes: What was decided or left out, a line each.
        unreadable: What was wrong with each image that was left out.
        misnamed: Images whose extension is that of another format; they are used.
        links: Links that were left out.
        examined: What was found in their files, to be remembered when training starts.
        value_range: Of train's images with more than 8 bits a channel; None without any.
    """

    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    misnamed: tuple[Misnamed, ...] = ()
    links: tuple[Link, ...] = ()
    examined: tuple[Examined, ...] = ()
    value_range: ValueRange | None = None

    def labels_of(self, sample: Sample) -> str:
        """The names of a sample's labels, joined."""
        return " + ".join(self.class_names[label] for label in sample.labels)

    def counts(self, split: Sequence[Sample]) -> list[int]:
        """Images per class, in the order of `class_names`."""
        by_label = Counter(label for sample in split for label in sample.labels)
        return [by_label[label] for label in range(len(self.class_names))]


def stratified_split(
    samples: Sequence[Sample], val_split: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(train, val): of each class the share `val_split`, at least one image, goes to val.

    An image of several classes counts for its rarest one.

    Images are ranked by a hash of seed and name, so that whether one is held out depends neither
    on the order of the files nor much on which others there are.
    """
    by_label: dict[int, list[Sample]] = {}
    rarest = rarest_labels([sample.labels for sample in samples])
    for sample, label in zip(samples, rarest, strict=True):
        by_label.setdefault(label, []).append(sample)
    held_out: set[str] = set()
    for members in by_label.values():
        ranked = sorted(members, key=lambda s: _hash(f"split/{seed}/{s.name}"))
        count = max(1, round(len(members) * val_split)) if len(members) > 1 else 0
        held_out.update(s.name for s in ranked[: min(count, len(members) - 1)])
    return (
        [s for s in samples if s.name not in held_out],
        [s for s in samples if s.name in held_out],
    )


def rarest_labels(labels: Sequence[tuple[int, ...]]) -> list[int]:
    """Of each image's labels the one that the fewest images have; -1 for one without labels.

    Spreading images by it keeps rare labels in all parts, as the greedy step of iterative
    stratification does (Sechidis et al., 2011).
    """
    counts = Counter(label for each in labels for label in each)
    return [min(each, key=lambda label: (counts[label], label), default=-1) for each in labels]


def names_sha256(samples: Sequence[Sample]) -> str:
    """SHA-256 over the names of samples, whatever their order."""
    listed = "\n".join(sorted(sample.name for sample in samples))
    return hashlib.sha256(os.fsencode(listed)).hexdigest()


def _hash(text: str) -> bytes:
    return hashlib.blake2b(os.fsencode(text), digest_size=8).digest()
