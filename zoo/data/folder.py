"""A folder of photos becomes classes and splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo.data import extensions, links
from zoo.data.extensions import Misnamed
from zoo.data.layout import (
    class_images,
    existing,
    left_out,
    names_below,
    normal_name,
    split_folders,
)
from zoo.data.links import Link, reach_of
from zoo.data.scan import Contents, Scan, decode_all, readable_images
from zoo.data.split import Sample, Splits, stratified_split
from zoo.errors import DataError

#: Unreadable images that an error names.
_EXAMPLES = 3


def read_splits(
    root: Path,
    *,
    val_split: float,
    seed: int,
    strict: bool = False,
    follow_links: bool = False,
    scan: Scan = decode_all,
) -> Splits:
    """Classes and splits of `root/class/*` or `root/train/class/*` and `root/val/class/*`.

    The val folder may also be called valid or validation. Without one, each class gives `val_split`
    of its images to val; a test folder is never used. Hidden and empty folders are no classes;
    every image is scanned once here, so that an unreadable one is known before training. What has
    an image's name and is none, a pipe or a folder or a link to nothing, counts as unreadable too.
    Left out as well are links that lead out of `root` or in circles. An image of another format
    than its extension says is read as what it is, and named.

    Args:
        root: The data folder.
        val_split: Share of each class held out, above 0 and below 1.
        seed: Decides which images are held out.
        strict: Make what would be left out an error, and wrong extensions.
        follow_links: Follow links that lead out of `root` too.
        scan: Looks at the files.

    Raises:
        DataError: No folder, no images, fewer than two classes, a class too small to split, a val
            class that train lacks, or (strict) something that would be left out.
    """
    reach = reach_of(root, follow_links=follow_links)
    layout = split_folders(root, reach)
    of_train = class_images(layout.train, reach)
    of_val = None if layout.val is None else class_images(layout.val, reach)
    astray = (*layout.links, *of_train.links, *(of_val.links if of_val else ()))
    _refuse_links(astray, strict=strict)
    looked = readable_images(of_train.images, scan, strict=strict)
    notes = [*layout.notes, *of_train.notes]
    unreadable, misnamed = [*looked.unreadable], [*looked.misnamed]
    class_names = tuple(looked.readable)
    if len(class_names) < 2:
        because = _because(of_train.notes, unreadable, astray)
        raise _too_few_classes(layout.train, class_names, because)
    samples = _samples(root, looked.readable, class_names)
    if of_val is None:
        train, val = stratified_split(samples, val_split, seed)
        if not val or len({s.labels for s in train}) < len(class_names):
            raise DataError(
                f"{root}: too few images to hold out {val_split:g} of each class"
                f"{_because(of_train.notes, unreadable, astray)}"
            )
    else:
        notes += of_val.notes
        unknown = sorted(set(of_val.images) - set(class_names))
        if unknown:
            raise DataError(
                f"{layout.val} has classes that {layout.train} lacks: "
                f"{_beside(unknown, class_names)}; train's classes are {', '.join(class_names)}"
                f"{_because(of_train.notes, unreadable, astray)}"
            )
        looked = readable_images(of_val.images, scan, strict=strict)
        unreadable += looked.unreadable
        misnamed += looked.misnamed
        train, val = samples, _samples(root, looked.readable, class_names)
        if not val:
            because = _because(of_val.notes, looked.unreadable, astray)
            raise DataError(f"no readable images in {layout.val}{because}")
    return Splits(
        class_names=class_names,
        train=tuple(train),
        val=tuple(val),
        notes=tuple(notes),
        unreadable=tuple(unreadable),
        misnamed=tuple(misnamed),
        links=astray,
    )


def read_labelled(
    folder: Path,
    class_names: Sequence[str],
    *,
    root: Path | None = None,
    astray: Sequence[Link] = (),
    strict: bool = False,
    follow_links: bool = False,
) -> Splits:
    """All images of `folder/class/*` as val, with the labels of an existing class map.

    Args:
        folder: Of class folders.
        class_names: Of the class map, in the order of its labels.
        root: The data folder that `folder` is of, out of which links lead; None: `folder` itself.
        astray: Links that were left out on the way to `folder`.
        strict: As `read_splits`.
        follow_links: Likewise.

    Raises:
        DataError: No folder, no images, a class that the map lacks, or (strict) something that
            would be left out.
    """
    root = root or folder
    found = class_images(existing(folder), reach_of(root, follow_links=follow_links))
    astray = (*astray, *found.links)
    _refuse_links(astray, strict=strict)
    # Runs of earlier versions have class names as their folders had them.
    known = {normal_name(name): name for name in class_names}
    unknown = sorted(found.images.keys() - known.keys())
    if unknown:
        raise DataError(
            f"{folder} has classes that the model lacks: {_beside(unknown, class_names)}; "
            f"the model's are {', '.join(class_names)}"
        )
    images = {known[name]: files for name, files in found.images.items()}
    looked = readable_images(images, decode_all, strict=strict)
    samples = _samples(folder, looked.readable, class_names)
    if not samples:
        because = _because(found.notes, looked.unreadable, astray)
        raise DataError(f"no readable images in {folder}{because}")
    return Splits(
        class_names=tuple(class_names),
        train=(),
        val=tuple(samples),
        notes=found.notes,
        unreadable=tuple(looked.unreadable),
        misnamed=tuple(looked.misnamed),
        links=astray,
    )


def said_left_out(
    unreadable: Sequence[str], misnamed: Sequence[Misnamed], astray: Sequence[Link]
) -> list[str]:
    """What is wrong with a data folder, to be said: each unreadable image, a line of all else.

    Args:
        unreadable: As in `Splits`.
        misnamed: Likewise.
        astray: Its `links`.
    """
    count = [f"{len(unreadable)} unreadable images left out"] if unreadable else []
    out = [f"left out: {line}" for line in links.describe(astray)]
    return [*unreadable, *count, *extensions.describe(misnamed), *out]


def _refuse_links(astray: Sequence[Link], *, strict: bool) -> None:
    if strict and astray:
        raise DataError("\n".join(links.describe(astray)))


def _because(notes: Sequence[str], unreadable: Sequence[str], astray: Sequence[Link]) -> str:
    """What was left out of a folder of which too little remains."""
    lines = [*unreadable[:_EXAMPLES]]
    if len(unreadable) > _EXAMPLES:
        lines.append(f"and {len(unreadable) - _EXAMPLES:,} more unreadable images")
    noted = "".join(f"\n  {note}" for note in notes)
    return noted + left_out([*lines, *links.describe(astray)])


def _beside(unknown: Sequence[str], class_names: Sequence[str]) -> str:
    """Class names that are not known, each beside a known one that it may stand for."""
    folded = {name.casefold(): name for name in class_names}
    told = [(name, folded.get(name.casefold())) for name in unknown]
    return ", ".join(f"{name} (there is {near})" if near else name for name, near in told)


def _samples(root: Path, by_class: dict[str, Contents], class_names: Sequence[str]) -> list[Sample]:
    labels = {name: label for label, name in enumerate(class_names)}
    return [
        Sample(name=below, labels=(labels[name],), image=image, content=content)
        for name, images in by_class.items()
        for below, (image, content) in zip(
            names_below(root, [*images]), images.items(), strict=True
        )
    ]


def _too_few_classes(folder: Path, class_names: tuple[str, ...], because: str) -> DataError:
    if not class_names:
        return DataError(f"no readable images in {folder}{because}")
    return DataError(
        f"{folder} has one class only ({class_names[0]}); a classifier needs at least two: "
        f"one subfolder per class{because}"
    )
