"""Clean copy of a data folder, without images that would distort results."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from zoo.data.check.compare import Comparison, Group, Photo
from zoo.data.check.dataset import Checked
from zoo.data.check.files import LEFT_OUT
from zoo.data.check.fix_table import check_table_target, left_out_file, write_table
from zoo.data.check.rename import Renamed, move, rename
from zoo.data.sources import is_image_folder, is_table
from zoo.data.sources.links import refused_link
from zoo.errors import DataError

#: Maximum number of similar files named for each file in `left-out.json`.
_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file that is left out of the copy.

    Attributes:
        path: Path relative to the folder, with `/`.
        kind: Kind of the finding that is the reason.
        reason: Reason as text.
        others: The first ten files that it duplicates or resembles.
        more: Number of further such files.
    """

    path: str
    kind: str
    reason: str
    others: tuple[str, ...] = ()
    more: int = 0


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Result of making a clean copy.

    Attributes:
        path: The copy.
        files: Number of its files; of a table, of its rows.
        report: File that lists what was left out, and why.
        left_out: What was left out.
        renamed: Images with another extension.
        relabelled: Images with another label.
    """

    path: Path
    files: int
    report: Path
    left_out: tuple[LeftOut, ...]
    renamed: tuple[Renamed, ...]
    relabelled: tuple[Renamed, ...] = ()


def check_target(root: Path, target: Path) -> Path:
    """Return the resolved path for the copy of `root`.

    Raises:
        DataError: `root` is neither a folder of images nor a table on this machine, or `target` is
            inside `root`, is a file, is not empty, or has no parent folder; or, for a table, is no
            CSV file, or exists.
    """
    if is_table(root):
        return check_table_target(target)
    if not is_image_folder(root):
        raise DataError(
            f"`fix_to` copies folders of images, and tables on this machine, and {root} is neither",
            hint="correct the data itself",
        )
    resolved = target.expanduser().resolve()
    if resolved.is_relative_to(root.resolve()):
        raise DataError(f"`fix_to={target}` is inside {root}", hint="give a folder elsewhere")
    if resolved.exists() and not resolved.is_dir():
        raise DataError(f"`fix_to={target}` is a file", hint="give a folder that doesn't exist yet")
    if resolved.exists() and any(resolved.iterdir()):
        raise DataError(f"`fix_to={target}` is not empty", hint="give a new or an empty folder")
    if not resolved.parent.is_dir():
        raise DataError(f"`fix_to={target}`: there is no folder {resolved.parent}")
    return resolved


def fix(
    checked: Checked, target: Path, labels: Mapping[str, tuple[str, ...]] | None = None
) -> Fixed:
    """Copy the folder or table to `target` without images that distort results.

    What is left out is listed in `left-out.json`.

    Unreadable images and all copies of an image in several classes are left out. One of each set of
    exact duplicates within a class is copied. Exact and near duplicates of val and test images are
    left out of train, so that figures stay comparable. Of test, only unreadable images are left
    out. All other files are copied unchanged, with their times; images with a wrong extension get
    that of their format. Links are followed as in the check. The source folder is not modified.
    `target` appears only when the copy is complete and on disk.

    Of a table, the rows are copied to a CSV file, beside which is `NAME.left-out.json`; images stay
    where they are, and keep their names.

    Args:
        checked: The check of the folder; with `labels`, of the images with these labels.
        target: Folder of the copy.
        labels: New labels, by path; these images are moved to the folder of their class.
            Only images of a table may have several.

    Raises:
        DataError: `target` can't be used or written, or a file can't be copied; nothing remains.
    """
    root = checked.listing.root
    left_out = decide(checked.photos, checked.comparisons)
    if checked.listing.table:
        rows, changed = write_table(checked, target, left_out, labels or {})
        return Fixed(
            path=target,
            files=rows,
            report=left_out_file(target),
            left_out=tuple(left_out),
            renamed=(),
            relabelled=tuple(changed),
        )
    place = check_target(root, target)
    files, folder_links = _files(checked)
    lacking = {each.path for each in left_out}
    # A folder with an image extension is left out with its content.
    files = [p for p in files if not lacking & {p, *map(str, PurePosixPath(p).parents)}]
    for path in folder_links:
        reason = "a link to a folder; of that only the images that training uses are copied"
        refused_links = _refused(path, checked)
        left_out.append(refused_links or LeftOut(path=path, kind="link", reason=reason))
    kept = []
    for path in files:
        refused_links = _refused(path, checked)
        if refused_links is not None:
            left_out.append(refused_links)
        elif not (root / path).is_file():
            reason = "no regular file, nor a link to one"
            left_out.append(LeftOut(path=path, kind="no-file", reason=reason))
        else:
            kept.append(path)
    files = kept
    copied = set(files)
    # Renaming an image to the name of a left-out file or a folder would be misleading.
    taken = {each.path for each in left_out} | copied
    taken |= {str(folder) for path in taken for folder in PurePosixPath(path).parents}
    renamed = rename([photo for photo in checked.photos if photo.path in copied], taken)
    names = {each.path: each.name for each in renamed}
    moved = move(
        checked, {p: label for p, (label,) in (labels or {}).items() if p in copied}, names
    )
    names |= {each.path: each.name for each in moved}
    with _appearing(place, target) as beside:
        _check_space(root, files, beside, target)
        for path in files:
            copy = beside / names.get(path, path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, copy)
        report = {
            "copy_of": str(root.resolve()),
            "files": len(files),
            "left_out": [asdict(each) for each in left_out],
            "renamed": [asdict(each) for each in renamed],
            "relabelled": [asdict(each) for each in moved],
        }
        (beside / LEFT_OUT).write_text(json.dumps(report, indent=2), encoding="utf-8")
    return Fixed(
        path=target,
        files=len(files),
        report=target / LEFT_OUT,
        left_out=tuple(left_out),
        renamed=tuple(renamed),
        relabelled=tuple(moved),
    )


def decide(photos: Iterable[Photo], comparisons: Sequence[Comparison]) -> list[LeftOut]:
    """Decide which images are left out, sorted by path."""
    left_out = {each.path: each for each in _unreadable(photos)}
    # A copy of a test image is not kept, even if train has it twice: that is the reason to give.
    for found in reversed(comparisons):
        for photo, like, kind, reason in _reasons(found):
            if photo.split == "test":
                continue
            # Listing the whole group for each member would take quadratic space.
            named = [other.path for other in like[: _NAMED + 1] if other is not photo][:_NAMED]
            others = len(like) - (kind != "near-leakage")
            left_out.setdefault(
                photo.path,
                LeftOut(
                    path=photo.path,
                    kind=kind,
                    reason=reason,
                    others=tuple(named),
                    more=others - len(named),
                ),
            )
    return [left_out[path] for path in sorted(left_out)]


def _reasons(found: Comparison) -> Iterator[tuple[Photo, Group, str, str]]:
    """Yield each image to leave out, those that it is like, the kind, and the reason as text."""
    for group in found.conflicts:
        for photo in group:
            yield photo, group, "label-conflict", "the same image is in more than one class"
    for group in found.duplicates:
        for photo in group[1:]:
            yield photo, group, "duplicates", "the class has it once more"
    if found.against == "val":
        return  # Images of val that are in test are reported only.
    split = found.held_out
    for group in found.leaks:
        train, held_out = _by_split(group, split)
        for photo in train:
            yield photo, group, "leakage", f"the same image is in {split}"
        for photo in held_out[1:]:
            yield photo, group, "duplicates", f"{split} has it once more"
    for group in found.near_leaks:
        train, held_out = _by_split(group, split)
        for photo in train:
            yield photo, held_out, "near-leakage", f"{split} has one that looks the same"


def _unreadable(photos: Iterable[Photo]) -> Iterator[LeftOut]:
    for photo in photos:
        if photo.examined.problem:
            yield LeftOut(path=photo.path, kind="unreadable", reason=photo.examined.problem)


def _by_split(group: Group, held_out: str) -> tuple[Group, Group]:
    """Return the images of train and those of the held-out split."""
    train = tuple(photo for photo in group if photo.split != held_out)
    return train, tuple(photo for photo in group if photo.split == held_out)


def _files(checked: Checked) -> tuple[list[str], list[str]]:
    """List all files except an earlier `left-out.json`, and all links to folders, not followed."""
    root = checked.listing.root
    files = {photo.path for photo in checked.photos}
    links = []
    for parent, folders, names in os.walk(root):
        below = Path(parent).relative_to(root)
        files.update((below / name).as_posix() for name in names)
        links += [(below / n).as_posix() for n in folders if (root / below / n).is_symlink()]
    return sorted(files - {LEFT_OUT}), sorted(links)


def _refused(path: str, checked: Checked) -> LeftOut | None:
    """Return why a link's target is not copied; None if it is copied, or the path is not a link."""
    listing = checked.listing
    if not (listing.root / path).is_symlink():
        return None
    issue = refused_link(listing.root / path, listing.reach)
    if issue is None or issue.kind == "broken-link":  # `fix` reports it as not a file.
        return None
    if issue.kind == "circular-link":
        return LeftOut(path=path, kind="broken-links", reason="a link that leads in a circle")
    reason = f"a link out of the folder: it {issue.reason}; `follow_links` copies that"
    return LeftOut(path=path, kind="outside-links", reason=reason)


def _check_space(root: Path, files: list[str], beside: Path, target: Path) -> None:
    needed = sum((root / path).stat().st_size for path in files)
    free = shutil.disk_usage(beside).free
    if needed > free:
        raise DataError(
            f"`fix_to={target}` takes {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free "
            f"there",
            hint="give a folder on a larger disk",
        )


@contextmanager
def _appearing(place: Path, target: Path) -> Iterator[Path]:
    """Yield a temporary folder, renamed to `place` on success and deleted on failure."""
    beside = None
    try:
        beside = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
        # mkdtemp makes folders private; use the default permissions instead.
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o777 & ~umask)
        yield beside
        if hasattr(os, "sync"):
            os.sync()  # Otherwise a power failure after the rename could leave empty files.
        if os.name == "nt" and place.exists():
            place.rmdir()  # Other systems replace an empty folder on rename.
        beside.rename(place)
    except BaseException as error:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError):
            raise DataError(
                f"can't write the copy to {target}: {error.strerror or error}"
                f"{f' ({error.filename})' if error.filename else ''}; nothing of it is left"
            ) from error
        raise
