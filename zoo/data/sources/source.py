"""The contract of a data source."""

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
        name: What it is called in messages, such as its folder.
        samples: In a stable order; no two have one name.
        issues: What was left out of it, or is to be known about it.
    """

    name: str
    samples: Sequence[Sample]
    issues: Sequence[Issue] = ()


class Source(Protocol):
    """Labelled images, by split.

    It may have `issues` too, a sequence of `Issue`: what was left out before any split is read.
    """

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def splits(self) -> Sequence[str]:
        """Those it has, of `train`, `val` and `test`; what is not split yet is `train`."""

    def read(self, split: str) -> Part:
        """The samples of one of its splits.

        Raises:
            DataError: They can't be listed.
        """


def issues_of(source: Source) -> Sequence[Issue]:
    """The issues of a source that are known before any split is read."""
    issues: Sequence[Issue] = getattr(source, "issues", ())
    return issues
