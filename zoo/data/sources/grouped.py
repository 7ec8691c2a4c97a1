"""Groups of images, such as those of one patient, by which a source is split."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from zoo.data.columns import group_counts, regrouped
from zoo.data.issue import Issue
from zoo.data.sample import Sample
from zoo.data.sources.source import Part, Source, is_remote, issues_of
from zoo.errors import DataError
from zoo.io.text import clip, listed

#: Value of `group_by` for which images of one folder are a group.
FOLDER = "folder"

#: Function that returns the group of a sample; None if it has none.
GroupOf = Callable[[Sample], str | None]


class GroupedSource:
    """A source with a group for each image, as the user asked for.

    Args:
        source: The source.
        group_by: Value of the recipe's field, for messages.
        group_of: Returns the group of each sample.
    """

    def __init__(self, source: Source, group_by: str, group_of: GroupOf) -> None:
        self._source, self._group_by, self._group_of = source, group_by, group_of
        self.name = source.name
        self.splits: Sequence[str] = tuple(source.splits)
        self.issues = tuple(issues_of(source))
        self.remote = is_remote(source)

    def read(self, split: str) -> Part:
        """Read a split; images without a group are an issue.

        Raises:
            DataError: No train image has a group.
        """
        part = self._source.read(split)
        samples = part.samples
        if self._group_of is not own_group:
            samples = regrouped(samples, self._group_of)
        lacking = group_counts(samples)[None]
        if not lacking:
            return replace(part, samples=samples)
        first = next(sample.name for sample in samples if sample.group is None)
        what = f"`group_by={self._group_by}`"
        if lacking == len(samples) and split == "train":
            raise DataError(
                f"{part.name}: {what} gives none of its {len(samples):,} images a group; the first "
                f"is {clip(first)}"
            )
        reason = (
            f"{what} gives no group to {lacking:,} of {len(samples):,} images, such as "
            f"{clip(first)}: each is a group of its own"
        )
        issue = Issue(kind="note", name=part.name, reason=reason)
        return replace(part, samples=samples, issues=(*part.issues, issue))


def own_group(sample: Sample) -> str | None:
    """Return the group that the source gave to a sample."""
    return sample.group


def folder_of(sample: Sample) -> str | None:
    """Return the folder in the name of a sample."""
    return sample.name.rpartition("/")[0] or None


def by_pattern(group_by: str, columns: Sequence[str] = ()) -> GroupOf:
    """Return a function that finds the group of a sample in its name.

    Args:
        group_by: Regular expression with at least one group in parentheses. It may match any part
            of a name; the texts of several groups are joined.
        columns: Columns that could have been given instead, for the message.

    Raises:
        DataError: It is not such an expression.
    """
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise DataError(
            f"`group_by` {group_by!r} is not a valid regular expression: {error}"
        ) from error
    if not pattern.groups:
        column = f"a column of the table ({listed(columns)}), " if columns else ""
        raise DataError(
            f"`group_by` is {group_by!r}: it must be {column}`{FOLDER}`, or a regular expression "
            f"with the group in parentheses, such as (patient[0-9]+)_"
        )

    def group_of(sample: Sample) -> str | None:
        found = pattern.search(sample.name)
        return "/".join(part or "" for part in found.groups()) or None if found else None

    return group_of
