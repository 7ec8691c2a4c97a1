"""Groups of images, such as those of one patient, that are on both sides of a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from zoo.data.check.compare import Photo
from zoo.data.check.findings import Finding, of_each
from zoo.io.text import count, listed

#: Maximum number of groups that a text names.
_EXAMPLES = 3


def of_groups(photos: Sequence[Photo]) -> Iterator[Finding]:
    """Yield findings about groups in two splits, and images without a group if others have one."""
    used = [photo for photo in photos if photo.used]
    members: dict[str, dict[str, list[str]]] = {"train": {}, "val": {}, "test": {}}
    for photo in used:
        if photo.group is not None:
            of_split = members[photo.split or "train"]
            of_split.setdefault(photo.group, []).append(photo.path)
    if not any(members.values()):
        return
    for split, other in combinations(members, 2):
        if both := sorted(members[split].keys() & members[other].keys()):
            number = f"{count(len(both), 'group')} {'is' if len(both) == 1 else 'are'}"
            yield Finding(
                kind="group-leakage",
                # Val chooses the model, but nothing is learnt from it.
                severity="error" if split == "train" else "warning",
                text=f"{number} in both {split} and {other}: {listed(both, _EXAMPLES)}; figures on "
                f"{other} may be far too good",
                count=len(both),
                groups=tuple((*members[other][name], *members[split][name]) for name in both),
                advice="move all images of a group to one side",
            )
    if lacking := [photo.path for photo in used if photo.group is None]:
        yield of_each(
            "without-group",
            "note",
            f"{len(lacking):,} of {count(len(used), 'image')} without a group",
            lacking,
            "nothing, if each is related to no other: it is a group of its own",
        )
