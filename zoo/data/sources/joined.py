"""A source with the val or test split of another source."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.data.issue import Issue
from zoo.data.sources.layout import NO_VAL
from zoo.data.sources.source import Part, Source, is_remote, issues_of
from zoo.errors import DataError


class JoinedSource:
    """The splits of one source, some of them replaced by those of others.

    Args:
        source: The source of all other splits.
        others: Sources by the split, `val` or `test`, that they replace. A source that has this
            split and others too gives this split; one that is not split gives all of its images.

    Raises:
        DataError: A source is split, but does not have the split that it is to give.
    """

    def __init__(self, source: Source, others: Mapping[str, Source]) -> None:
        self._source, self._others = source, others
        self._their_split: dict[str, str] = {}
        for split, other in others.items():
            there = tuple(other.splits)
            if split not in there and there != ("train",):
                raise DataError(
                    f"{other.name} has no {split} split: only {' and '.join(there)}",
                    hint=f"give the folder or table of the {split} images as `{split}`",
                )
            self._their_split[split] = split if split in there else "train"
        self.name = source.name
        own = tuple(source.splits)
        self.splits = tuple(s for s in ("train", "val", "test") if s in own or s in others)
        issues = [
            issue for issue in issues_of(source) if "val" not in others or issue.reason != NO_VAL
        ]
        for split, other in others.items():
            issues += issues_of(other) if split in other.splits else ()
            if split in own:
                reason = f"its {split} split is not used: `{split}` is {other.name}"
                issues.append(Issue(kind="skipped", name=source.name, reason=reason))
        self.issues = tuple(issues)
        self.remote = any(map(is_remote, (source, *others.values())))

    def read(self, split: str) -> Part:
        """Read a split from the source that has it.

        Raises:
            DataError: The samples can't be listed.
        """
        if split in self._others:
            return self._others[split].read(self._their_split[split])
        return self._source.read(split)
