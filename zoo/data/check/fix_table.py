"""Clean copy of a table, without rows of images that would distort results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.check.files import LEFT_OUT
from zoo.data.check.rename import Renamed
from zoo.data.sources.table import copy_table
from zoo.errors import DataError
from zoo.io.files import replacing

if TYPE_CHECKING:
    from zoo.data.check.dataset import Checked
    from zoo.data.check.fix import LeftOut


def check_table_target(target: Path) -> Path:
    """Return the path for the copy of a table.

    Raises:
        DataError: It is no CSV file, exists, or has no parent folder.
    """
    found = target.expanduser().absolute()
    if found.suffix.lower() != ".csv":
        raise DataError(f"`fix_to={target}`: the copy of a table is a CSV file", hint="NAME.csv")
    for file in (found, left_out_file(found)):
        if file.exists():
            raise DataError(f"`fix_to={target}`: {file} exists", hint="give a new name")
    if not found.parent.is_dir():
        raise DataError(f"`fix_to={target}`: there is no folder {found.parent}")
    return found


def left_out_file(target: Path) -> Path:
    """Return the path of the list of what a copy of a table lacks."""
    return target.with_name(f"{target.stem}.{LEFT_OUT}")


def write_table(
    checked: Checked,
    target: Path,
    left_out: list[LeftOut],
    labels: Mapping[str, tuple[str, ...]],
) -> tuple[int, list[Renamed]]:
    """Write the table without the rows of some images, and beside it the list of what it lacks.

    Returns:
        The number of rows, and the images with other labels.

    Raises:
        DataError: It can't be copied or written; nothing remains.
    """
    place = check_table_target(target)
    lacking = {each.path for each in left_out}
    moved = [
        Renamed(path=path, name=path, reason=f"it is {' + '.join(names) or 'of no class'}")
        for path, names in sorted(labels.items())
        if path not in lacking
    ]
    try:
        with replacing(place) as beside:
            rows = copy_table(
                checked.listing.root,
                beside,
                left_out=lacking,
                labels=labels,
                group_by=checked.listing.group_by,
            )
            report = {
                "copy_of": str(checked.listing.root.resolve()),
                "rows": rows,
                "left_out": [asdict(each) for each in left_out],
                "relabelled": [asdict(each) for each in moved],
            }
            with replacing(left_out_file(place)) as listed:
                listed.write_text(json.dumps(report, indent=2), encoding="utf-8")
    except OSError as error:
        with suppress(OSError):
            left_out_file(place).unlink()
        raise DataError(
            f"can't write the copy to {target}: {error.strerror or error}; nothing of it is left"
        ) from error
    return rows, moved
