"""Findings of a dataset check: counts, affected images and advice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from zoo.data.check.compare import Comparison, Group, Photo
from zoo.io.text import count

Severity = Literal["error", "warning", "note"]

#: Pixels of the shorter side below which an image holds little to learn from.
TINY = 32

#: Pixels above which an image takes seconds to decode, in every epoch unless it is cached.
HUGE = 50_000_000

#: Ratio of the largest to the smallest class above which classes are imbalanced.
IMBALANCE = 10


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem or fact found in a data folder.

    Attributes:
        kind: Stable identifier, such as `leakage`.
        severity: `error`: results would be wrong or images are lost; `warning`: should be reviewed;
            `note`: for information.
        text: Description with the number of images.
        count: Number of images, or of the items that the text counts.
        groups: Affected paths relative to the data folder, in groups of related files.
        advice: Recommended action.
    """

    kind: str
    severity: Severity
    text: str
    count: int
    groups: tuple[tuple[str, ...], ...] = ()
    advice: str


def of_comparisons(found: Iterable[Comparison]) -> list[Finding]:
    """Return findings about exact and near duplicates in all splits."""
    return [
        finding
        for each in found
        for finding in (_test_in_val(each) if each.against == "val" else of_comparison(each))
    ]


def _test_in_val(found: Comparison) -> list[Finding]:
    groups = [*found.leaks, *found.near_leaks]
    finding = _finding(
        "test-in-val",
        "warning",
        "{} of test {is_are} in val too, or look{s} like one of val",
        groups,
        len({photo.path for group in groups for photo in group if photo.split == "test"}),
        "val decides which model is kept, so figures on test are a little too good; take them out "
        "of one of the two",
    )
    return [] if finding is None else [finding]


def of_comparison(found: Comparison) -> list[Finding]:
    """Return findings about exact and near duplicates in train and a held-out split."""
    held_out = found.held_out
    both = "; zoo's split may put one into train and another into val"
    flat = any(map(_separable, found.near_duplicates))
    return [
        finding
        for finding in (
            _finding(
                "leakage",
                "error",
                f"{{}} of {held_out} {{is_are}} in train too (leakage)",
                found.leaks,
                sum(photo.split == held_out for group in found.leaks for photo in group),
                f"{held_out} accuracy is too high, because these images are trained on; `fix_to` "
                "leaves them out of train",
            ),
            _finding(
                "label-conflict",
                "error",
                "{} {is_are} in more than one class",
                found.conflicts,
                len(found.conflicts),
                "keep each in the class it belongs to; `fix_to` leaves all its copies out",
            ),
            _finding(
                "near-leakage",
                "error",
                f"{{}} of {held_out} look{{s}} like one of train (leakage)",
                found.near_leaks,
                len({p.path for g in found.near_leaks for p in g if p.split == held_out}),
                "resized or edited copies, or pictures of one series: look at them; `group_by` "
                "keeps a series together, `fix_to` leaves those of train out",
            ),
            _finding(
                "near-conflict",
                "warning",
                "{} look{s} like one of another class",
                found.near_conflicts,
                sum(map(len, found.near_conflicts)),
                "look at them: if they show the same, keep them in one class",
            ),
            _finding(
                "duplicates",
                "warning",
                "{} {is_are} the copy of another of the same class"
                + both * any(map(_separable, found.duplicates)),
                found.duplicates,
                sum(len(group) - 1 for group in found.duplicates),
                "they count more than others; `fix_to` keeps one of each",
            ),
            _finding(
                "near-duplicates",
                "warning" if flat else "note",
                "{} look{s} like another of the same class" + both * flat,
                found.near_duplicates,
                sum(len(group) - 1 for group in found.near_duplicates),
                "where they are of one series, put all of it into train/ or into val/, or keep it "
                "together with `group_by`"
                if flat
                else "nothing, unless a series should weigh no more than one image",
            ),
        )
        if finding is not None
    ]


def _separable(group: Group) -> bool:
    """Whether zoo's split may put images of a group of duplicates on both sides."""
    names = {photo.group for photo in group}
    return not group[0].split and (None in names or len(names) > 1)


def of_images(photos: Sequence[Photo], *, channels: int = 3) -> list[Finding]:
    """Return findings about single images and class imbalance; four channels take a fourth band."""
    more_bands = max(0, channels - 3)
    unreadable: list[Photo] = []
    wrong: list[Photo] = []
    good: list[Photo] = []
    for photo in photos:
        kind = unreadable if photo.examined.problem else wrong if photo.wrong_extension else good
        kind.append(photo)
    listed = (
        _listed(
            "unreadable",
            "error",
            "{} can't be read",
            unreadable,
            "training leaves them out; replace them, or have `fix_to` leave them out",
        ),
        _listed(
            "wrong-extension",
            "warning",
            "{} {is_are} of another format than the extension says",
            wrong,
            "zoo reads them as what they are, other software may not; rename them, or have "
            "`fix_to` do so",
        ),
        imbalance(good),
        _listed(
            "tiny",
            "warning",
            f"{{}} {{is_are}} less than {TINY} pixels wide or high",
            [p for p in good if min(p.examined.width, p.examined.height) < TINY],
            "thumbnails or icons? Take the originals if there are any",
        ),
        _listed(
            "huge",
            "note",
            f"{{}} {{has_have}} more than {HUGE // 1_000_000} million pixels",
            [p for p in good if p.examined.width * p.examined.height > HUGE],
            "make smaller copies: decoding these takes longer than training on them",
        ),
        _listed(
            "dropped-bands",
            "warning",
            "{} {has_have} bands beside red, green and blue that are not used",
            [p for p in good if p.examined.dropped > more_bands],
            "convert them to the three bands that distinguish the classes best",
        ),
        _modes(good),
    )
    return [finding for finding in listed if finding is not None]


def imbalance(photos: Iterable[Photo]) -> Finding | None:
    """Return a finding if the largest training class has many times the images of the smallest."""
    counts = Counter(name for p in photos if p.split in ("", "train") for name in p.labels)
    if not counts:
        return None
    (most, highest), (least, lowest) = counts.most_common()[0], counts.most_common()[-1]
    if highest <= IMBALANCE * lowest:
        return None
    return Finding(
        kind="imbalance",
        severity="warning",
        text=f"class {most} has {highest} images, {least} only {lowest}: "
        f"{highest / lowest:.3g} times as many",
        count=len(counts),
        advice="more images of small classes help most; `class_weights=balanced` compensates",
    )


def of_each(kind: str, severity: Severity, text: str, names: Sequence[str], advice: str) -> Finding:
    """Return a finding about classes or files, each of which is a group of its own."""
    return Finding(
        kind=kind,
        severity=severity,
        text=text,
        count=len(names),
        groups=tuple((name,) for name in names),
        advice=advice,
    )


def examples(finding: Finding, at_most: int) -> list[str]:
    """Format at most `at_most` groups of a finding as text, and the number of the others."""
    shown = []
    for group in finding.groups[:at_most]:
        more = f" = {len(group) - at_most:,} more" if len(group) > at_most else ""
        shown.append(" = ".join(group[:at_most]) + more)
    left = len(finding.groups) - at_most
    return [*shown, f"and {left:,} more"] if left > 0 else shown


def _finding(
    kind: str, severity: Severity, text: str, groups: Sequence[Group], number: int, advice: str
) -> Finding | None:
    """Return a finding about groups of images; None if there are none."""
    if not groups:
        return None
    return Finding(
        kind=kind,
        severity=severity,
        text=text.format(
            count(number, "image"),
            is_are="is" if number == 1 else "are",
            has_have="has" if number == 1 else "have",
            s="s" if number == 1 else "",
        ),
        count=number,
        groups=tuple(tuple(photo.path for photo in group) for group in groups),
        advice=advice,
    )


def _listed(
    kind: str, severity: Severity, text: str, photos: Sequence[Photo], advice: str
) -> Finding | None:
    """Return a finding about single images; None if there are none."""
    return _finding(kind, severity, text, [(photo,) for photo in photos], len(photos), advice)


def _modes(photos: Sequence[Photo]) -> Finding | None:
    counts = Counter(photo.examined.mode for photo in photos)
    if counts.keys() <= {"RGB"}:
        return None
    listed = ", ".join(f"{number:,} {mode}" for mode, number in counts.most_common())
    return Finding(
        kind="colour-modes",
        severity="note",
        text=f"colour modes: {listed}",
        count=len(counts),
        advice="nothing: all become 8-bit RGB, transparency over white. Where one class alone has "
        "a mode, that may be what is learnt",
    )
