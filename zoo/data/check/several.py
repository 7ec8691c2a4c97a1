"""Findings about the labels of images that may have several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zoo.data.check.compare import Photo
from zoo.data.check.findings import Finding, of_each
from zoo.io.text import count

#: Number of images of two classes from which on it is no chance that they are the same images.
TOGETHER = 5


def of_labels(photos: Sequence[Photo]) -> Iterator[Finding]:
    """Yield findings about images without a label, and classes that others can't be told from.

    There are none if each image has one label.
    """
    used = [photo for photo in photos if photo.used]
    if all(len(photo.labels) == 1 for photo in used):
        return
    if without := [photo.path for photo in used if not photo.labels]:
        yield of_each(
            "without-label",
            "note",
            f"{len(without):,} of {count(len(used), 'image')} without any label",
            without,
            "nothing, if they show none of the classes; otherwise label them, or take them away",
        )
    rows: dict[str, list[int]] = {}
    for row, photo in enumerate(used):
        for name in photo.labels:
            rows.setdefault(name, []).append(row)
    if always := sorted(name for name, of_class in rows.items() if len(of_class) == len(used)):
        yield of_each(
            "always-present",
            "warning",
            f"{count(len(always), 'class', 'classes')} that every image has",
            always,
            "nothing can be learnt from them: add images without them, or leave them out",
        )
    alike: dict[tuple[int, ...], list[str]] = {}
    for name in sorted(rows):
        if TOGETHER <= len(rows[name]) < len(used):
            alike.setdefault(tuple(rows[name]), []).append(name)
    if groups := [tuple(names) for names in alike.values() if len(names) > 1]:
        number = sum(map(len, groups))
        yield Finding(
            kind="same-images",
            severity="warning",
            text=f"{count(number, 'class', 'classes')} that always occur together",
            count=number,
            groups=tuple(groups),
            advice="they can't be told apart: add images that have one of them only, or make them "
            "one class",
        )
