"""A folder of photos becomes classes and splits."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from zoo.data.image import is_image_name, read_image
from zoo.errors import DataError

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled image.

    Attributes:
        name: Path below the data folder, with `/`: the image's identity for splits and randomness.
        label: Index into the class names.
        image: Its file, or the decoded picture.
    """

    name: str
    label: int
    image: Path | Image.Image


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Labelled images, split.

    Attributes:
        class_names: In the order of the labels; made from train alone.
        train: Images to learn from.
        val: Held-out images.
        notes: What was decided or left out, a line each.
        unreadable: What was wrong with each image that was left out.
    """

    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    def counts(self, split: Sequence[Sample]) -> list[int]:
        """Images per class, in the order of `class_names`."""
        by_label = Counter(sample.label for sample in split)
        return [by_label[label] for label in range(len(self.class_names))]


def read_splits(root: Path, *, val_split: float, seed: int, strict: bool = False) -> Splits:
    """Classes and splits of `root/class/*` or `root/train/class/*` and `root/val/class/*`.

    The val folder may also be called valid, validation or test. Without one, each class gives
    `val_split` of its images to val. Hidden and empty folders are no classes; every image is
    decoded once here, so that an unreadable one is known before training.

    Args:
        root: The data folder.
        val_split: Share of each class held out, above 0 and below 1.
        seed: Decides which images are held out.
        strict: Make an unreadable image an error instead of leaving it out.

    Raises:
        DataError: No folder, no images, fewer than two classes, a class too small to split, a val
            class that train lacks, or (strict) an unreadable image.
    """
    train_dir, val_dir = _layout(root)
    by_class, notes = _classes(train_dir)
    readable, unreadable = _readable(root, by_class, strict)
    class_names = tuple(readable)
    if len(class_names) < 2:
        raise _too_few_classes(train_dir, class_names)
    samples = _samples(root, readable, class_names)
    if val_dir is None:
        train, val = stratified_split(samples, val_split, seed)
        if not val or len({s.label for s in train}) < len(class_names):
            raise DataError(f"{root}: too few images to hold out {val_split:g} of each class")
    else:
        val_by_class, val_notes = _classes(val_dir)
        notes += val_notes
        strangers = sorted(set(val_by_class) - set(class_names))
        if strangers:
            raise DataError(
                f"{val_dir} has classes that {train_dir} lacks: {', '.join(strangers)}; "
                f"train's classes are {', '.join(class_names)}"
            )
        val_readable, val_unreadable = _readable(root, val_by_class, strict)
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
    by_class, notes = _classes(_existing(root))
    strangers = sorted(set(by_class) - set(class_names))
    if strangers:
        raise DataError(
            f"{root} has classes that the model lacks: {', '.join(strangers)}; "
            f"the model's are {', '.join(class_names)}"
        )
    readable, unreadable = _readable(root, by_class, strict)
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


def stratified_split(
    samples: Sequence[Sample], val_split: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(train, val): of each class the share `val_split`, at least one image, goes to val.

    Images are ranked by a hash of seed and name, so that whether one is held out depends neither
    on the order of the files nor much on which others there are.
    """
    by_label: dict[int, list[Sample]] = {}
    for sample in samples:
        by_label.setdefault(sample.label, []).append(sample)
    held_out: set[str] = set()
    for members in by_label.values():
        ranked = sorted(members, key=lambda s: _hash(f"split/{seed}/{s.name}"))
        count = max(1, round(len(members) * val_split)) if len(members) > 1 else 0
        held_out.update(s.name for s in ranked[: min(count, len(members) - 1)])
    return (
        [s for s in samples if s.name not in held_out],
        [s for s in samples if s.name in held_out],
    )


def find_split_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The subfolder of that role, by the first of its names that exists."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def images_in(folder: Path) -> list[Path]:
    """Every image below a folder, hidden files and folders left out, sorted."""
    return sorted(
        Path(parent) / name
        for parent, folders, names in _walk(folder)
        for name in names
        if not name.startswith(".") and is_image_name(Path(name))
    )


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield parent, folders, names


def _layout(root: Path) -> tuple[Path, Path | None]:
    _existing(root)
    train_dir = find_split_folder(root, TRAIN)
    val_dir = find_split_folder(root, VAL)
    if train_dir is not None and _visible_folders(train_dir):
        return train_dir, val_dir
    return root, None


def _existing(root: Path) -> Path:
    if not root.is_dir():
        what = "is no folder" if root.exists() else "does not exist"
        raise DataError(f"data folder {root} {what}; give a folder with one subfolder per class")
    return root


def _visible_folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"can't list {folder}: {error.strerror}") from error


def _classes(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Image files by class, in the order of the class names; and notes on what was passed over."""
    by_class: dict[str, list[Path]] = {}
    notes = []
    for class_dir in _visible_folders(folder):
        images = sorted(
            p for p in class_dir.iterdir()
            if not p.name.startswith(".") and is_image_name(p) and not p.is_dir()
        )  # fmt: skip
        if images:
            by_class[class_dir.name] = images
        else:
            nested = len(images_in(class_dir))
            why = f"its {nested} images lie in subfolders" if nested else "it holds no images"
            notes.append(f"{class_dir} is no class: {why}")
    if not by_class:
        loose = len([p for p in folder.iterdir() if p.is_file() and is_image_name(p)])
        found = f"{loose} images lie in it directly" if loose else "found none"
        because = "".join(f"\n  {note}" for note in notes)
        raise DataError(
            f"no images in class folders below {folder} ({found}); "
            f"zoo expects {folder.name}/CLASS/IMAGE{because}"
        )
    return by_class, notes


def _readable(
    root: Path, by_class: dict[str, list[Path]], strict: bool
) -> tuple[dict[str, list[Path]], list[str]]:
    """The files that decode, classes without any left out; and what is wrong with the others."""
    files = [file for images in by_class.values() for file in images]
    with ThreadPoolExecutor() as pool:
        problems = dict(zip(files, pool.map(_problem, files, chunksize=16), strict=True))
    unreadable = [problem for problem in problems.values() if problem]
    if unreadable and strict:
        raise DataError("\n".join(unreadable))
    readable = {
        name: [file for file in images if not problems[file]] for name, images in by_class.items()
    }
    return {name: images for name, images in readable.items() if images}, unreadable


def _problem(path: Path) -> str:
    try:
        read_image(path)
    except DataError as error:
        return str(error)
    return ""


def _samples(
    root: Path, by_class: dict[str, list[Path]], class_names: Sequence[str]
) -> list[Sample]:
    labels = {name: label for label, name in enumerate(class_names)}
    return [
        Sample(name=image.relative_to(root).as_posix(), label=labels[name], image=image)
        for name, images in by_class.items()
        for image in images
    ]


def _too_few_classes(folder: Path, class_names: tuple[str, ...]) -> DataError:
    if not class_names:
        return DataError(f"no readable images in {folder}")
    return DataError(
        f"{folder} has one class only ({class_names[0]}); a classifier needs at least two: "
        f"one subfolder per class"
    )


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
