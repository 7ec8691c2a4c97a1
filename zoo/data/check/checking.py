"""Check a data folder, from its files to what there is to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from zoo.data.check.compare import Comparison, Photo, compare
from zoo.data.check.examine import Examined, examine_files
from zoo.data.check.findings import Finding, of_comparison, of_images
from zoo.data.check.folders import count_classes, of_classes, of_listing
from zoo.data.check.listing import Listing, list_data
from zoo.data.check.memory import examined_store, remember

#: Files after which what was found is kept, so that an interrupt loses little.
_BATCH = 1024

_ORDER = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of a data folder.

    Attributes:
        root: The folder, as it was given.
        counts: Usable images by class by split: `train` and `val`, or `""` where zoo is to split;
            one of several classes counts for each.
        totals: Usable images by split.
        modes: Usable images by Pillow's colour mode.
        formats: Usable images by Pillow's format.
        findings: The worst first.
        not_remembered: Why what was found could not be kept; empty if it was.
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
        """How many images are usable."""
        return sum(self.totals.values())

    @property
    def serious(self) -> bool:
        """Whether there is an error among the findings."""
        return any(finding.severity == "error" for finding in self.findings)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A checked folder, with all that making a clean copy of it takes."""

    report: Report
    listing: Listing
    photos: tuple[Photo, ...]
    comparison: Comparison


def check_data(
    path: str | Path,
    *,
    follow_links: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look for what is wrong with a data folder before it is trained on.

    Args:
        path: A folder as `zoo finetune --data` takes it.
        follow_links: Follow links that lead out of the folder too.
        progress: Told (done, all) of the image files as they are examined.

    Raises:
        DataError: It can't be listed, or no class folder has a file named as an image.
    """
    root = Path(path).expanduser()
    return checked(root, follow_links=follow_links, progress=progress).report


def checked(
    root: Path,
    *,
    follow_links: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """As `check_data`, with what it was found from."""
    listing = list_data(root, follow_links=follow_links)
    examined, not_remembered = _examined([image.file for image in listing.images], progress)
    photos = tuple(
        Photo(
            path=image.path,
            labels=image.labels,
            split=image.split,
            examined=examined[image.file],
        )
        for image in listing.images
    )
    comparison = compare(photos)
    counts = count_classes(listing, photos)
    findings = [
        *of_classes(counts),
        *of_images(photos),
        *of_comparison(comparison, flat="" in counts),
        *of_listing(listing),
    ]
    good = [photo.examined for photo in photos if photo.used]
    totals = Counter(photo.split for photo in photos if photo.used)
    report = Report(
        root=str(root),
        counts=counts,
        totals={split: totals[split] for split in counts},
        modes=_counted(each.mode for each in good),
        formats=_counted(each.format for each in good),
        findings=tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity])),
        not_remembered=not_remembered,
    )
    return Checked(report=report, listing=listing, photos=photos, comparison=comparison)


def _examined(
    files: Sequence[Path], progress: Callable[[int, int], None] | None
) -> tuple[dict[Path, Examined], str]:
    examined: dict[Path, Examined] = {}
    not_remembered = ""
    with examined_store() as store:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            found = examine_files(batch, store, partial(_report, progress, start, len(files)))
            not_remembered = not_remembered or remember(store, found.values())
            examined.update(found)
    return examined, not_remembered


def _report(
    progress: Callable[[int, int], None] | None, before: int, total: int, done: int
) -> None:
    if progress:
        progress(before + done, total)


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
