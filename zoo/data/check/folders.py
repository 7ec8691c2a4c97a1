"""Findings about the classes, class names and unused files of a data folder."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from zoo.data.check.compare import Photo
from zoo.data.check.files import Listing
from zoo.data.check.findings import Finding, Severity, of_each
from zoo.data.issue import Issue
from zoo.io.text import count, printable

#: Number of train images of a class below which hardly anything can be said about it.
FEW = 10

#: Splits that are not learnt from.
HELD_OUT = ("val", "test")

#: Number of val images below which the 95 % interval of an accuracy around one half (Wilson, 1927)
#: is wider than 20 points: z^2 (1 / 0.2^2 - 1), z = 1.96.
FEW_VAL = 93


def count_classes(listing: Listing, photos: Sequence[Photo]) -> dict[str, dict[str, int]]:
    """Count usable images by split and class, with 0 for class folders without any."""
    counts = {split: dict.fromkeys(names, 0) for split, names in listing.folders.items()}
    for photo in photos:
        if photo.used:
            of_split = counts[photo.split]
            for name in photo.labels:
                of_split[name] = of_split.get(name, 0) + 1
    return {split: dict(sorted(of_split.items())) for split, of_split in counts.items()}


def of_classes(
    counts: Mapping[str, Mapping[str, int]], images: Mapping[str, int]
) -> Iterator[Finding]:
    """Yield findings about the classes and the sizes of the splits, from usable images."""
    learnt = {name for name, images in _training(counts).items() if images}
    if len(learnt) < 2:
        yield of_each(
            "too-few-classes",
            "error",
            f"there {'is one class only' if learnt else 'is no class'} to learn",
            sorted(learnt),
            "a classifier needs two at least: one folder per class",
        )
    for split in HELD_OUT:
        if split not in counts:
            continue
        held_out = {name for name, images in counts[split].items() if images}
        if unknown := sorted(held_out - learnt):
            yield of_each(
                "unknown-classes",
                "error",
                f"{_classes(len(unknown))} of {split} not in train",
                unknown,
                "training refuses them; name the folders alike in both, or take these away",
            )
        if missing := sorted(learnt - held_out):
            yield of_each(
                f"classes-without-{split}",
                "warning",
                f"{_classes(len(missing))} of train without an image in {split}",
                missing,
                f"no metric can be computed for them; move some of their images to {split}",
            )
    yield from of_sizes(counts, images)
    empty = sorted(
        f"{split}/{name}" if split else name
        for split, of_split in counts.items()
        for name, images in of_split.items()
        if not images
    )
    if empty:
        yield of_each(
            "empty-classes",
            "warning",
            f"{count(len(empty), 'folder')} without a usable image",
            empty,
            "no classes to zoo; fill or delete them",
        )
    yield from _of_names({name for of_split in counts.values() for name in of_split})


def of_sizes(
    counts: Mapping[str, Mapping[str, int]], images: Mapping[str, int]
) -> Iterator[Finding]:
    """Yield findings about classes, and val and test sets, with few usable images."""
    if few := sorted(name for name, each in _training(counts).items() if 0 < each < FEW):
        yield of_each(
            "few-images",
            "warning",
            f"{_classes(len(few))} with fewer than {FEW} images to learn from",
            few,
            "take more photos of these first; until then, neither their figures nor their "
            "labels can be judged",
        )
    for split in HELD_OUT:
        held_out = images.get(split, 0)
        if 0 < held_out < FEW_VAL:
            yield Finding(
                kind=f"few-{split}-images",
                severity="warning",
                text=f"{split} has {count(held_out, 'image')}: its accuracy is only known within "
                "20 points or more",
                count=held_out,
                advice=f"differences between runs are mostly chance; use {FEW_VAL} or more",
            )


def of_listing(listing: Listing) -> list[Finding]:
    """Return findings about files and links that training does not use."""
    outside = [path for path, kind in listing.links.items() if kind == "outside-link"]
    broken = [path for path, kind in listing.links.items() if kind != "outside-link"]
    unused = count(len(listing.unused), "image")
    others = count(len(listing.others), "file")
    kinds: tuple[tuple[str, Severity, str, list[str], str], ...] = (
        (
            "outside-links",
            "error",
            f"{_links(len(outside))} out of the folder",
            outside,
            "training leaves out what they lead to; copy that here, or follow it: `follow_links`",
        ),
        (
            "broken-links",
            "warning",
            f"{_links(len(broken))} nowhere or in a circle",
            broken,
            "training leaves them out; delete them, or make them lead to what was meant",
        ),
        (
            "nested",
            "warning",
            f"{count(len(listing.nested), 'image')} deeper than in a class folder, not used",
            listing.nested,
            "zoo does not search folders of class folders; move them up, or use `group_by=folder`",
        ),
        (
            "loose",
            "warning",
            f"{count(len(listing.loose), 'image')} beside the class folders, not used",
            listing.loose,
            "put them into the folder of their class",
        ),
        (
            "unused-folders",
            "note",
            f"{unused} in folders beside train, val and test, not used",
            listing.unused,
            "nothing; a test folder is used if any of its folders is a class of train",
        ),
        (
            "no-images",
            "note",
            f"{others} not named as images{_extensions(listing.others)}",
            listing.others,
            "convert those that are pictures (HEIC, raw formats) to JPEG or PNG",
        ),
    )
    return [
        of_each(kind, severity, text, paths, advice)
        for kind, severity, text, paths, advice in kinds
        if paths
    ]


def of_issues(issues: Sequence[Issue]) -> Iterator[Finding]:
    """Yield what a source that is no folder has skipped, and its notes."""
    for issue in issues:
        yield Finding(
            kind=f"source-{issue.kind}",
            severity="warning" if issue.left_out else "note",
            text=printable(issue.reason),
            count=1,
            advice="correct it in the data, unless it is meant so",
        )


def _of_names(names: set[str]) -> Iterator[Finding]:
    by_core: dict[str, list[str]] = {}
    for name in sorted(names):
        core = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        by_core.setdefault(core, []).append(name)
    if alike := [tuple(group) for group in by_core.values() if len(group) > 1]:
        number = sum(map(len, alike))
        yield Finding(
            kind="alike-class-names",
            severity="warning",
            text=f"{_classes(number)} named alike but for case, blanks or the way letters are "
            f"written",
            count=number,
            groups=tuple(alike),
            advice="are these one class? On many file systems their folders are the same",
        )


def _training(counts: Mapping[str, Mapping[str, int]]) -> Mapping[str, int]:
    return counts["train"] if "train" in counts else counts[""]


def _extensions(paths: Sequence[str]) -> str:
    kinds = Counter(PurePosixPath(p).suffix.lower() or "no extension" for p in paths)
    return ": " + ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(6))


def _links(number: int) -> str:
    return f"{count(number, 'link')} lead{'s' if number == 1 else ''}"


def _classes(number: int) -> str:
    return count(number, "class", "classes")
