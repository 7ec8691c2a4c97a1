"""A source without the classes that have few images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zoo.data.columns import Columns, label_counts
from zoo.data.issue import Issue
from zoo.data.sample import Sample
from zoo.data.sources.source import Part, Source, is_remote, issues_of
from zoo.errors import DataError
from zoo.io.text import clip, count

#: Maximum number of classes that a note names.
_EXAMPLES = 5


class FrequentSource:
    """A source whose classes with few train images are left out of all splits.

    If an image of train has several labels or none, images keep their other labels, and one without
    any stays, as an image of no class. Otherwise, images of these classes are left out.

    Args:
        source: The source. Its val and test splits may have classes that train lacks; these are
            errors later, as without `min_count`.
        min_count: Train images that a class needs, counted before images are held out or found to
            be unreadable.

    Raises:
        DataError: There are no train images, or fewer than two classes have as many images.
    """

    def __init__(self, source: Source, min_count: int) -> None:
        self._source = source
        self.name = source.name
        self.splits: Sequence[str] = tuple(source.splits)
        self.remote = is_remote(source)
        if "train" not in self.splits:
            raise DataError(f"{source.name} has no images to learn from")
        self._train = source.read("train")
        samples = self._train.samples
        label_sets = label_counts(samples)
        counts = Counter[str]()
        for labels, number in label_sets.items():
            for name in labels:
                counts[name] += number
        rare = sorted(name for name, images in counts.items() if images < min_count)
        self._rare = frozenset(rare)
        self._several = any(len(labels) != 1 for labels in label_sets)
        if len(counts) - len(rare) < 2 <= len(counts):
            raise DataError(
                f"{source.name}: {count(len(counts) - len(rare), 'class', 'classes')} of "
                f"{len(counts):,} with {min_count:,} or more train images",
                hint="lower `min_count`",
            )
        self.issues = (*issues_of(source), *self._issues(rare, counts, min_count))

    def read(self, split: str) -> Part:
        """Read a split without these classes.

        Raises:
            DataError: The samples can't be listed.
        """
        part = self._train if split == "train" else self._source.read(split)
        if not self._rare:
            return part
        return replace(part, samples=self._kept(part.samples))

    def _kept(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        if isinstance(samples, Columns):
            found = [self._labels(labels) for labels in samples.label_sets]
            left = np.array([labels is not None for labels in found], bool)
            kept = samples.relabelled([labels or () for labels in found])
            return kept.take(left[samples.label_codes()])
        labelled = ((sample, self._labels(sample.labels)) for sample in samples)
        return [
            sample if labels == sample.labels else replace(sample, labels=labels)
            for sample, labels in labelled
            if labels is not None
        ]

    def _labels(self, labels: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the labels that an image keeps; None if it is left out."""
        kept = tuple(name for name in labels if name not in self._rare)
        return kept if kept or self._several or not labels else None

    def _issues(self, rare: Sequence[str], counts: Counter[str], min_count: int) -> list[Issue]:
        if not rare:
            return []
        named = ", ".join(f"{clip(name)} ({counts[name]:,})" for name in rare[:_EXAMPLES])
        more = ", ..." if len(rare) > _EXAMPLES else ""
        left = len(self._train.samples) - len(self._kept(self._train.samples))
        what = f", and their {count(left, 'train image')}" if left else ""
        reason = (
            f"{len(rare):,} of {count(len(counts), 'class', 'classes')} left out{what}: fewer than "
            f"{min_count:,} train images (`min_count`): {named}{more}"
        )
        return [Issue(kind="skipped", name=self.name, reason=reason)]
