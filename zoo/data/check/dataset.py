"""Check a dataset and report the findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from zoo.data.check.compare import Comparison, Photo, compare_splits, joined
from zoo.data.check.examine import Examined, examine_samples
from zoo.data.check.files import Listing, list_data
from zoo.data.check.findings import Finding, of_comparisons, of_images
from zoo.data.check.folders import count_classes, of_classes, of_issues, of_listing
from zoo.data.check.groups import of_groups
from zoo.data.check.memory import examined_store, remember
from zoo.data.check.names import of_all_names
from zoo.data.check.several import of_labels
from zoo.data.sample import Sample

#: Images examined between two writes to the store, so that an interrupt loses little.
_BATCH = 1024

_ORDER = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Result of checking a data folder.

    Attributes:
        root: Data folder as given.
        counts: Usable images by split and class; splits are `train`, `val` and `test`, with `""`
            in place of train if zoo will split it. An image of several classes counts for each.
        totals: Usable images by split.
        modes: Usable images by Pillow colour mode.
        formats: Usable images by Pillow format.
        findings: Findings, most severe first.
        not_remembered: Why the results could not be stored; empty if they were.
    """

    root: str
    counts: Mapping[str, Mapping[str, int]]
    totals: Mapping[str, int]
    modes: Mapping[str, int]
    formats: Mapping[str, int]
    findings: tuple[Finding, ...]
    not_remembered: str = ""

    @property
    def images(self) -> int:
        """Number of usable images."""
        return sum(self.totals.values())

    @property
    def serious(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A checked folder, with the data needed to make a clean copy of it."""

    report: Report
    listing: Listing
    photos: tuple[Photo, ...]
    comparisons: tuple[Comparison, ...]
    copies: tuple[tuple[int, int], ...] = ()


def check_data(
    path: str | Path,
    *,
    follow_links: bool = False,
    allow_network: bool = False,
    group_by: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check a data folder for problems before training.

    Args:
        path: A folder, or another source, as for `zoo finetune --data`.
        follow_links: Also follow links that lead out of the folder.
        allow_network: Also read addresses in a table that are not of the table's own server.
        group_by: How to find the groups of images, as in the recipe.
        progress: Called with (examined, total) numbers of images.

    Raises:
        DataError: The folder can't be listed, no class folder contains an image by extension, or
            `group_by` does not fit it.
    """
    found = checked(
        path,
        follow_links=follow_links,
        allow_network=allow_network,
        group_by=group_by,
        progress=progress,
    )
    return found.report


def checked(
    data: str | Path,
    *,
    follow_links: bool = False,
    allow_network: bool = False,
    group_by: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Check like `check_data`, and also return the data that the report is based on."""
    listing = list_data(
        data, follow_links=follow_links, allow_network=allow_network, group_by=group_by
    )
    examined, not_remembered = _examined([image.sample for image in listing.images], progress)
    photos = tuple(
        Photo(
            path=image.path,
            labels=image.labels,
            split=image.split,
            examined=each,
            group=image.sample.group,
        )
        for image, each in zip(listing.images, examined, strict=True)
    )
    return _reported(listing, photos, not_remembered)


def with_copies(checked: Checked, copies: Sequence[tuple[int, int]]) -> Checked:
    """Add edited copies that hashes do not find, as pairs of positions in `checked.photos`."""
    return _reported(checked.listing, checked.photos, checked.report.not_remembered, tuple(copies))


def relabelled(checked: Checked, labels: Mapping[str, tuple[str, ...]]) -> Checked:
    """Return the check of the same images with other labels, by path."""
    photos = tuple(
        replace(photo, labels=labels[photo.path]) if photo.path in labels else photo
        for photo in checked.photos
    )
    return _reported(checked.listing, photos, checked.report.not_remembered, checked.copies)


def _reported(
    listing: Listing,
    photos: tuple[Photo, ...],
    not_remembered: str,
    copies: tuple[tuple[int, int], ...] = (),
) -> Checked:
    pairs = [(photos[one], photos[other]) for one, other in copies]
    comparisons = compare_splits(photos)
    if pairs:
        comparisons = joined(comparisons, pairs)
    counts = count_classes(listing, photos)
    findings = [
        *of_issues(listing.issues),
        *of_labels(photos),
        *of_classes(counts, Counter(photo.split for photo in photos if photo.used)),
        *of_images(photos),
        *of_comparisons(comparisons),
        *of_listing(listing),
        *of_all_names(photos),
        *of_groups(photos),
    ]
    good = [photo.examined for photo in photos if photo.used]
    totals = Counter(photo.split for photo in photos if photo.used)
    report = Report(
        root=str(listing.root),
        counts=counts,
        totals={split: totals[split] for split in counts},
        modes=_counted(each.mode for each in good),
        formats=_counted(each.format for each in good),
        findings=sorted_findings(findings),
        not_remembered=not_remembered,
    )
    return Checked(
        report=report, listing=listing, photos=photos, comparisons=comparisons, copies=copies
    )


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings, the most severe first."""
    return tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity]))


def _examined(
    samples: Sequence[Sample], progress: Callable[[int, int], None] | None
) -> tuple[list[Examined], str]:
    examined: list[Examined] = []
    not_remembered = ""
    with examined_store() as store:
        for start in range(0, len(samples), _BATCH):
            batch = samples[start : start + _BATCH]
            found = examine_samples(batch, store, partial(_report, progress, start, len(samples)))
            not_remembered = not_remembered or remember(store, found)
            examined += found
    return examined, not_remembered


def _report(
    progress: Callable[[int, int], None] | None, before: int, total: int, done: int
) -> None:
    if progress:
        progress(before + done, total)


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
