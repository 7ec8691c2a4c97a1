"""A folder of photos becomes classes and splits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from zoo.data.files import is_hidden, shown
from zoo.data.image import is_image_name
from zoo.data.scan import Contents, Scan, decode_all, readable_images
from zoo.data.split import Sample, Splits, stratified_split
from zoo.errors import DataError

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "test")


def read_splits(
    root: Path,
    *,
    val_split: float,
    seed: int,
    strict: bool = False,
    scan: Scan = decode_all,
) -> Splits:
    """Classes and splits of `root/class/*` or `root/train/class/*` and `root/val/class/*`.

    The val folder may also be called valid, validation or test. Without one, each class gives
    `val_split` of its images to val. Hidden and empty folders are no classes; every image is
    scanned once here, so that an unreadable one is known before training. What has an image's name
    and is none, a pipe or a folder or a link to nothing, counts as unreadable too.

    Args:
        root: The data folder.
        val_split: Share of each class held out, above 0 and below 1.
        seed: Decides which images are held out.
        strict: Make an unreadable image an error instead of leaving it out.
        scan: Looks at the files.

    Raises:
        DataError: No folder, no images, fewer than two classes, a class too small to split, a val
            class that train lacks, or (strict) an unreadable image.
    """
    train_dir, val_dir, notes = split_folders(root)
    by_class, class_notes = class_images(train_dir)
    notes += class_notes
    readable, unreadable = readable_images(by_class, scan, strict=strict)
    class_names = tuple(readable)
    if len(class_names) < 2:
        raise _too_few_classes(train_dir, class_names)
    samples = _samples(root, readable, class_names)
    if val_dir is None:
        train, val = stratified_split(samples, val_split, seed)
        if not val or len({s.label for s in train}) < len(class_names):
            raise DataError(f"{root}: too few images to hold out {val_split:g} of each class")
    else:
        val_by_class, val_notes = class_images(val_dir)
        notes += val_notes
        strangers = sorted(set(val_by_class) - set(class_names))
        if strangers:
            raise DataError(
                f"{val_dir} has classes that {train_dir} lacks: {', '.join(strangers)}; "
                f"train's classes are {', '.join(class_names)}"
            )
        val_readable, val_unreadable = readable_images(val_by_class, scan, strict=strict)
        unreadable += val_unreadable
        train, val = samples, _samples(root, val_readable, class_names)
        if not val:
            raise DataError(f"no readable images in {val_dir}")
    return Splits(
        class_names=class_names,
        train=tuple(train),
        val=tuple(val),
        notes=tuple(notes),
        unreadable=tuple(unreadable),
    )


def read_labelled(root: Path, class_names: Sequence[str], *, strict: bool = False) -> Splits:
    """All images of `root/class/*` as val, with the labels of an existing class map.

    Raises:
        DataError: No folder, no images, or a class that the map lacks.
    """
    by_class, notes = class_images(_existing(root))
    strangers = sorted(set(by_class) - set(class_names))
    if strangers:
        raise DataError(
            f"{root} has classes that the model lacks: {', '.join(strangers)}; "
            f"the model's are {', '.join(class_names)}"
        )
    readable, unreadable = readable_images(by_class, decode_all, strict=strict)
    samples = _samples(root, readable, class_names)
    if not samples:
        raise DataError(f"no readable images in {root}")
    return Splits(
        class_names=tuple(class_names),
        train=(),
        val=tuple(samples),
        notes=tuple(notes),
        unreadable=tuple(unreadable),
    )


def split_folders(root: Path) -> tuple[Path, Path | None, list[str]]:
    """(train folder, val folder if there is one, notes on what else lies there).

    The train folder is `root` itself where it has no subfolder train that holds class folders; a
    val folder counts beside a train folder alone. Names are compared without regard to case.
    """
    _existing(root)
    folders = {folder.name.lower(): folder for folder in visible_folders(root)}
    train_dir = next((folders[n] for n in TRAIN if n in folders), None)
    if train_dir is None or not visible_folders(train_dir):
        return root, None, []
    val_dir = next((folders[n] for n in VAL if n in folders), None)
    others = sorted(f.name for f in folders.values() if f not in (train_dir, val_dir))
    notes = [f"{root}: not used beside {train_dir.name}: {', '.join(others)}"] if others else []
    if val_dir is None:
        notes.append(f"{root} has no val folder: a part of {train_dir.name} is held out")
    return train_dir, val_dir, notes


def images_in(folder: Path) -> list[Path]:
    """Every image below a folder, sorted; not in hidden folders, nor behind links to folders.

    Raises:
        DataError: A folder can't be listed.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"can't list {shown(error.filename)}: {error.strerror}") from error

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [f for f in folders if not is_hidden(f)]
        paths = (Path(parent) / name for name in names if not is_hidden(name))
        found += [path for path in paths if is_image_name(path)]
    return sorted(found)


def _existing(root: Path) -> Path:
    try:
        is_folder, exists = root.is_dir(), root.exists()
    except OSError as error:
        raise DataError(f"can't look at data folder {root}: {error.strerror}") from error
    if not is_folder:
        what = "is no folder" if exists else "does not exist"
        raise DataError(f"data folder {root} {what}; give a folder with one subfolder per class")
    return root


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if not is_hidden(p.name))
    except OSError as error:
        raise DataError(f"can't list {shown(folder)}: {error.strerror}") from error


def visible_folders(folder: Path) -> list[Path]:
    """Its folders that are not hidden, sorted.

    Raises:
        DataError: It can't be listed.
    """
    return [p for p in _visible(folder) if _is_folder(p)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # What may not be looked at is no folder; as an image it is named.
        return False


def _leads_back(class_dir: Path, folder: Path) -> bool:
    """Whether a link in a folder leads to the folder itself or to one around it."""
    return class_dir.is_symlink() and folder.resolve().is_relative_to(class_dir.resolve())


def class_images(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Image files by class, in the order of the class names; and notes on what was passed over.

    Raises:
        DataError: There are none, or a folder can't be listed.
    """
    by_class: dict[str, list[Path]] = {}
    notes = []
    passed_over: Counter[str] = Counter()
    for path in _visible(folder):
        if path.is_symlink() and not path.exists():
            notes.append(f"{shown(path)} is no class: it is a link to nothing")
    for class_dir in visible_folders(folder):
        where = shown(class_dir)
        if _leads_back(class_dir, folder):
            notes.append(f"{where} is no class: it is a link to a folder that it lies in")
            continue
        entries = _visible(class_dir)
        folders = [p for p in entries if _is_folder(p)]
        # Whatever has an image's name is taken for one, so that it is named if it is none.
        images = [p for p in entries if is_image_name(p)]
        strangers = [p for p in entries if not is_image_name(p) and not _is_folder(p)]
        passed_over.update(shown(p.suffix.lower()) or "no extension" for p in strangers)
        nested = sum(len(images_in(p)) for p in folders if not p.is_symlink())
        deeper = f"{nested} images lie in its subfolders, which are not searched"
        if images:
            by_class[_storable(class_dir)] = images
            if nested:
                notes.append(f"{where}: {deeper}")
        else:
            notes.append(f"{where} is no class: {deeper if nested else 'it holds no images'}")
    if passed_over:
        kinds = ", ".join(f"{count} {kind}" for kind, count in passed_over.most_common(6))
        notes.append(f"{shown(folder)}: files that are no images to zoo were passed over: {kinds}")
    if not by_class:
        loose = len([p for p in _visible(folder) if is_image_name(p) and not _is_folder(p)])
        found = f"{loose} images lie in it directly" if loose else "found none"
        because = "".join(f"\n  {note}" for note in notes)
        raise DataError(
            f"no images in class folders below {folder} ({found}); "
            f"zoo expects {folder.name}/CLASS/IMAGE{because}"
        )
    return by_class, notes


def _storable(class_dir: Path) -> str:
    """The class name, if text files can hold it."""
    try:
        class_dir.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"class folder {str(class_dir)!r}: its name is no valid text") from error
    return class_dir.name


def _samples(root: Path, by_class: dict[str, Contents], class_names: Sequence[str]) -> list[Sample]:
    labels = {name: label for label, name in enumerate(class_names)}
    return [
        Sample(
            name=image.relative_to(root).as_posix(),
            label=labels[name],
            image=image,
            content=content,
        )
        for name, images in by_class.items()
        for image, content in images.items()
    ]


def _too_few_classes(folder: Path, class_names: tuple[str, ...]) -> DataError:
    if not class_names:
        return DataError(f"no readable images in {folder}")
    return DataError(
        f"{folder} has one class only ({class_names[0]}); a classifier needs at least two: "
        f"one subfolder per class"
    )
