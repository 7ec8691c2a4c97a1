"""Layout of a data folder or archive: split folders, class folders and their files."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from zoo.data.files import is_hidden
from zoo.data.issue import Issue, because
from zoo.data.sources.extensions import NO_IMAGE, is_image_name, reason_of, skipped
from zoo.data.sources.tree import Tree, is_folder
from zoo.errors import DataError
from zoo.io.text import count, printable

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation")
TEST = ("test", "testing")

#: Splits by their accepted names.
SPLIT_OF = {
    name: split
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST))
    for name in names
}

#: Text of the note on a folder with a train folder, but without a val folder.
NO_VAL = "no val folder: a part of the train folder is held out"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Split folders of a data folder.

    Attributes:
        train: Folder with the class folders of train.
        val: The same for val; None if there is no usable one.
        test: The same for test, which training doesn't use; None without class folders in it.
        issues: Unused folders, notes on the layout, and links that are not followed.
    """

    train: Path
    val: Path | None
    test: Path | None = None
    issues: tuple[Issue, ...] = ()

    @property
    def folders(self) -> dict[str, Path]:
        """The folders by split."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return {split: folder for split, folder in found.items() if folder is not None}


class LabelledFile(NamedTuple):
    """An image file in a class folder.

    Attributes:
        name: Its path relative to the data folder, with `/`.
        label: Class name.
        group: Name of the folder directly in the class folder that it is below; None if there is
            none.
    """

    name: str
    label: str
    group: str | None


@dataclass(frozen=True, kw_only=True)
class ClassFolder:
    """The image files of a class folder, in little memory.

    Attributes:
        label: Class name.
        joined: Their paths relative to the class folder, with `/`, joined by NUL, which no path
            contains.
        below: Path of the class folder relative to the data folder, with `/`.
        groups: The group of each; empty without subfolders.
    """

    label: str
    joined: bytes
    below: str
    groups: Sequence[str | None] = ()

    @property
    def files(self) -> Iterator[LabelledFile]:
        """The files."""
        names = self.joined.decode("utf-8", "surrogateescape").split("\0")
        for name, group in zip(names, self.groups or repeat(None), strict=False):
            yield LabelledFile(f"{self.below}/{name}", self.label, group)


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """The class folders of a split.

    Attributes:
        folders: The class folders, sorted by class name.
        issues: Skipped files and folders, and notes.
    """

    folders: tuple[ClassFolder, ...]
    issues: tuple[Issue, ...]

    @property
    def files(self) -> Iterator[LabelledFile]:
        """The image files of all folders."""
        for folder in self.folders:
            yield from folder.files


def split_folders(root: Path, tree: Tree) -> Layout:
    """Find the split folders of `root`.

    Without a subfolder train that contains class folders, `root` itself is the train folder, and
    val and test folders are not recognised. Names are compared case-insensitively.

    Raises:
        DataError: `root` can't be listed, or train is a link that leads out of it.
    """
    refused = _refused_below(root, tree)
    circles = {path for path, issue in refused.items() if issue.kind == "circular-link"}
    folders = {f.name.lower(): f for f in tree.folders(root) if f not in circles}
    train = next((folders[n] for n in TRAIN if n in folders), None)
    if train is None or not tree.folders(train):
        return Layout(train=root, val=None)
    val = next((folders[n] for n in VAL if n in folders), None)
    test = next((folders[n] for n in TEST if n in folders), None)
    # Other links are not used, so it does not matter where they lead.
    refused = {
        path: issue
        for path, issue in refused.items()
        if issue.kind != "outside-link" or path in (train, val, test)
    }
    if train in refused:
        raise DataError(f"no images to learn from in {root}{because([refused[train]])}")
    issues = [*refused.values()]
    others = sorted(f.name for f in folders.values() if f not in (train, val, test))
    if others:
        reason = f"not used beside {train.name}: {', '.join(others)}"
        issues.append(Issue(kind="skipped", name=str(root), reason=reason))
    if test is not None and test not in refused and not tree.folders(test):
        reason = "not used: it has no class folders"
        issues.append(Issue(kind="skipped", name=str(test), reason=reason))
        test = None
    if test in refused:
        test = None
    if test is not None and not _class_names(test, tree) & _class_names(train, tree):
        reason = f"not used: none of its folders is a class of {train.name}"
        issues.append(Issue(kind="skipped", name=str(test), reason=reason))
        test = None
    if val is None or val in refused:
        issues.append(Issue(kind="note", name=str(root), reason=NO_VAL))
        val = None
    return Layout(train=train, val=val, test=test, issues=tuple(issues))


def class_images(root: Path, folder: Path, tree: Tree, *, subfolders: bool = False) -> ClassFolders:
    """List the image files of each class.

    Args:
        root: Data folder, which names are relative to.
        folder: The folder with the class folders.
        tree: What it is in.
        subfolders: Also list images in subfolders of class folders.

    Raises:
        DataError: There are no images, or a folder can't be listed.
    """
    found: list[ClassFolder] = []
    folders: dict[str, list[Path]] = {}
    passed_over: list[Path] = []
    refused = _refused_below(folder, tree)
    class_dirs = tree.folders(folder)
    issues = [i for path, i in refused.items() if i.kind != "outside-link" or path in class_dirs]
    for class_dir in class_dirs:
        if class_dir in refused:
            continue
        images, others, nested, out = _sorted_out(class_dir, tree, subfolders=subfolders)
        issues += out
        passed_over += [class_dir / name for name in others]
        deeper = (
            f"{count(nested, 'image')} in its subfolders, which are not searched; "
            f"`group_by=folder` uses them, with each subfolder as a group"
        )
        if images:
            name = class_name(class_dir)
            below = class_dir.relative_to(root).as_posix()
            joined = "\0".join(images).encode("utf-8", "surrogateescape")
            groups = _groups(images) if subfolders else ()
            found.append(ClassFolder(label=name, joined=joined, below=below, groups=groups))
            folders[name] = [*folders.get(name, []), class_dir]
            if nested:
                issues.append(Issue(kind="skipped", name=str(class_dir), reason=deeper))
        else:
            lacks = "its images are links that are left out" if out else "it has no images"
            pictures = [n for n in map(Path, others) if reason_of(n) != NO_IMAGE]
            why = "".join(f"; skipped {line}" for line in skipped(pictures))
            reason = f"not a class: {deeper if nested else lacks}{why}"
            issues.append(Issue(kind="skipped", name=str(class_dir), reason=reason))
    alike = [", ".join(repr(d.name) for d in dirs) for dirs in folders.values() if len(dirs) > 1]
    same = "folders whose names look the same are one class"
    issues += [Issue(kind="note", reason=f"{same}: {names}") for names in alike]
    issues += [
        Issue(kind="skipped", name=str(folder), reason=f"skipped {line}")
        for line in skipped(passed_over)
    ]
    if not found:
        loose = sum(is_image_name(e.name) and not is_folder(e) for e in tree.entries(folder))
        what = f"it has {count(loose, 'image')} itself" if loose else "found none"
        raise DataError(
            f"no images in class folders below {folder} ({what}); "
            f"zoo expects {folder.name}/CLASS/IMAGE{because(issues)}"
        )
    found.sort(key=lambda each: each.label)
    return ClassFolders(folders=tuple(found), issues=tuple(issues))


def _groups(names: Sequence[str]) -> list[str | None]:
    """Return the first folder in each path relative to a class folder; None without one."""
    found: dict[str, str] = {}
    return [
        found.setdefault(first, normal_name(first)) if inner else None
        for first, _, inner in (name.partition("/") for name in names)
    ]


def is_val_name(path: str) -> bool:
    """Whether a folder has one of the names of a val folder."""
    return Path(path).name.lower() in VAL


def images_in(folder: Path) -> list[Path]:
    """List the images below a folder, as `files_in`."""
    return files_in(folder)[0]


def files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """List (images, other files) below a folder, sorted; images are recognised by extension.

    Hidden folders and links to folders are not searched.

    Raises:
        DataError: A folder can't be listed.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"can't list {printable(error.filename)}: {error.strerror}") from error

    images: list[Path] = []
    others: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [f for f in folders if not is_hidden(f)]
        for name in names:
            if not is_hidden(name):
                (images if is_image_name(name) else others).append(Path(parent, name))
    # The same order as comparing paths directly, which takes many times as long.
    images.sort(key=lambda path: path.parts)
    others.sort(key=lambda path: path.parts)
    return images, others


def existing(root: Path) -> Path:
    """Return the data folder after checking that it is a folder.

    Raises:
        DataError: If it is not.
    """
    try:
        is_folder, exists = root.is_dir(), root.exists()
    except OSError as error:
        raise DataError(f"can't read data folder {root}: {error.strerror}") from error
    if not is_folder:
        what = "is not a folder" if exists else "does not exist"
        raise DataError(
            f"data folder {root} {what}", hint="give a folder with one subfolder per class"
        )
    return root


def _class_names(folder: Path, tree: Tree) -> set[str]:
    return {normal_name(each.name) for each in tree.folders(folder)}


def _refused_below(folder: Path, tree: Tree) -> dict[Path, Issue]:
    """Find the links directly in a folder that are not followed."""
    paths = [folder / entry.name for entry in tree.entries(folder) if entry.is_symlink()]
    return {path: issue for path in paths if (issue := tree.refused(path))}


def _images_below(folder: Path, tree: Tree) -> int:
    """Count the images below a folder; links to folders are not searched."""
    images = 0
    for entry in tree.entries(folder):
        if is_folder(entry) and not entry.is_symlink():
            images += _images_below(folder / entry.name, tree)
        else:
            images += is_image_name(entry.name) and not is_folder(entry)
    return images


def _sorted_out(
    class_dir: Path, tree: Tree, *, subfolders: bool
) -> tuple[list[str], list[str], int, list[Issue]]:
    """Return a class folder's images, other names, number of unused nested images, and issues.

    Names are relative to the folder. The issues are links that are not followed.
    """
    images: list[str] = []
    others: list[str] = []
    nested, out = 0, []
    for entry in tree.entries(class_dir):
        inner = is_folder(entry)
        if inner and subfolders:
            folder = class_dir / entry.name
            if entry.is_symlink():
                reason = "a link to a folder in a class folder is not followed"
                out.append(Issue(kind="skipped", name=str(folder), reason=reason))
                continue
            deeper, names, _, links = _sorted_out(folder, tree, subfolders=True)
            images += [f"{entry.name}/{name}" for name in deeper]
            others += [f"{entry.name}/{name}" for name in names]
            out += links
            continue
        if inner and not entry.is_symlink():
            nested += _images_below(class_dir / entry.name, tree)
        # Everything with an image extension is listed, so that it is reported if unreadable.
        if not is_image_name(entry.name):
            others += [] if inner else [entry.name]
            continue
        # A broken link is listed as an image and reported when it is opened.
        link = None
        if entry.is_symlink() and not tree.anywhere:
            link = tree.refused(class_dir / entry.name)
        if link is not None and link.kind == "outside-link":
            out.append(link)
        else:
            images.append(entry.name)
    return images, others, nested, out


def normal_name(name: str) -> str:
    """Normalise a class name to composed characters (NFC) and strip surrounding whitespace.

    macOS and some archives store an accent separately from its letter, so that names which look
    the same differ.
    """
    return unicodedata.normalize("NFC", name).strip() or name


def class_name(class_dir: Path) -> str:
    """Return the class name of a class folder.

    Raises:
        DataError: The name can't be encoded as UTF-8.
    """
    try:
        class_dir.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"class folder {str(class_dir)!r}: its name is not valid UTF-8") from error
    return normal_name(class_dir.name)
