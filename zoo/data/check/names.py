"""Names that suggest groups of related images, such as frames of one video or one patient."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from zoo.data.check.compare import Photo
from zoo.data.check.findings import Finding

#: A group's name and a counter, as in `patient03_frame07.jpg` or `00012_00004.png`: the group's
#: name ends with a number, and something other than digits is before the counter.
RELATED = r"([^/]*[0-9])[^0-9/]+[0-9]+[^0-9/]*\.[^./]+$"

#: A group's name without a number and a counter, as in `bella_01.jpg`, `rex-3.jpg`, `anna (2).jpg`.
NAMED = r"([^/]*[^0-9/_ .()-])[_ .(-]+[0-9]+\)?\.[^./]+$"

#: Share of all images that must have relatives, so that names are not by chance.
_LEAST_SHARE = 0.5

#: Share of a class above which images with one name before the counter are not a group, but all
#: images of a class or of one source.
_MOST_OF_A_CLASS = 0.25

#: Share of val images with relatives in train below which the split is taken to be by group.
_LEAST_ACROSS = 0.1


def of_all_names(photos: Sequence[Photo]) -> list[Finding]:
    """Return findings of `of_names` for val and test; none if the images have groups."""
    if any(photo.group is not None for photo in photos):
        return []
    others = [photo for photo in photos if photo.split != "test"]
    found = [of_names(others)]
    if test := [photo for photo in photos if photo.split == "test"]:
        train = [replace(photo, split="train") for photo in others if photo.split != "val"]
        found.append(of_names([*train, *test], held_out="test"))
    return [finding for finding in found if finding is not None]


def of_names(photos: Sequence[Photo], *, held_out: str = "val") -> Finding | None:
    """Return a finding if names suggest groups that the split separates, or may separate.

    Two images of a class are related if their names differ in a counter only. Numbers after the
    name of a class, as in `cat_0001.jpg`, are not taken for counters within a group.

    Args:
        photos: Images of train and of another split, or of data that zoo will split.
        held_out: Name of the split that is not train, for messages.
    """
    found = (_of_pattern(photos, pattern, held_out) for pattern in (RELATED, NAMED))
    return next((finding for finding in found if finding is not None), None)


def _of_pattern(photos: Sequence[Photo], pattern: str, held_out: str) -> Finding | None:
    of_class = Counter(image.label for image in photos)
    related: dict[tuple[str, str], list[Photo]] = {}
    for image in photos:
        if found := re.search(pattern, image.path):
            related.setdefault((image.label, found[1]), []).append(image)
    groups = [
        group
        for (label, _), group in related.items()
        if 1 < len(group) <= _MOST_OF_A_CLASS * of_class[label]
    ]
    if sum(map(len, groups)) < _LEAST_SHARE * len(photos):
        return None
    torn = [g for g in groups if len({image.split for image in g}) > 1 or not g[0].split]
    split = {image.split for image in photos} - {""}
    across = sum(image.split != "train" for group in torn for image in group)
    total = sum(image.split != "train" for image in photos)
    if not torn or across < _LEAST_ACROSS * total:
        return None
    if split:
        what = (
            f"{held_out} images may be related to images of train, by their names: figures on "
            f"{held_out} may be far too good"
        )
    else:
        what = (
            "images may be related to others, by their names: zoo's split may put one into train "
            "and another into val"
        )
    return Finding(
        kind="related-names",
        severity="warning",
        text=f"{across:,} of {total:,} {what}; `group_by` keeps related images together",
        count=across,
        groups=tuple(tuple(image.path for image in group) for group in torn),
        advice="if images of one name are of one patient, animal, film or place, keep them "
        f"together: `group_by='{pattern}'`",
    )
