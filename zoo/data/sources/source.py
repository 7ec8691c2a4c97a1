"""The contract of a data source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from zoo.data.sample import Sample
from zoo.data.sources.links import Link


@dataclass(frozen=True, kw_only=True)
class Part:
    """One split of a source.

    Attributes:
        name: What it is called in messages, such as its folder.
        samples: In a stable order; no two have one name.
        notes: What was decided or left out, a line each.
        links: Links that were left out.
    """

    name: str
    samples: Sequence[Sample]
    notes: Sequence[str] = ()
    links: Sequence[Link] = ()


class Source(Protocol):
    """Labelled images, by split."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def splits(self) -> Sequence[str]:
        """Those it has, of `train`, `val` and `test`; what is not split yet is `train`."""

    @property
    def notes(self) -> Sequence[str]:
        """What was decided or left out before any split is read, a line each."""

    @property
    def links(self) -> Sequence[Link]:
        """Links that were left out by then."""

    def read(self, split: str) -> Part:
        """The samples of one of its splits.

        Raises:
            DataError: They can't be listed.
        """
