"""Interface of a data source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from zoo.data.issue import Issue
from zoo.data.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Part:
    """One split of a source.

    Attributes:
        name: Name for messages, such as its folder.
        samples: Samples in a stable order, with unique names.
        issues: Skipped items and notes.
    """

    name: str
    samples: Sequence[Sample]
    issues: Sequence[Issue] = ()


class Source(Protocol):
    """Labelled images by split.

    Optional attributes:
        issues: A sequence of `Issue` for items skipped before any split is read.
        remote: True if reading an image is slow or costs money, so that by default only some images
            are read before training (`scan=sample`).
    """

    @property
    def name(self) -> str:
        """Name for messages."""

    @property
    def splits(self) -> Sequence[str]:
        """Available splits out of `train`, `val` and `test`; unsplit data is `train`."""

    def read(self, split: str) -> Part:
        """Read the samples of a split.

        Raises:
            DataError: The samples can't be listed.
        """


def issues_of(source: Source) -> Sequence[Issue]:
    """Return the issues of a source that are known before any split is read."""
    issues: Sequence[Issue] = getattr(source, "issues", ())
    return issues


def is_remote(source: Source) -> bool:
    """Whether reading the images of a source is slow or costs money."""
    return bool(getattr(source, "remote", False))
