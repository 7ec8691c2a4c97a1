"""The prediction of many images by actors of a cluster, each file of rows by one of them."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from zoo import allocator, errors
from zoo.errors import RunError, ZooError
from zoo.io.files import replacing
from zoo.io.text import clip, printable
from zoo.prediction.inputs import Item
from zoo.prediction.rows import as_row, write_parquet
from zoo.ray.cluster import Pool
from zoo.ray.parts import part_file
from zoo.ray.predictor import Predictor
from zoo.runs.stream import Unreadable


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every actor needs to know.

    Attributes:
        run: The run.
        folder: The folder to write to.
        current: The folder that relative paths, also those of images, begin in.
        options: Arguments of `Predictor`.
        allocator_tuning: Whether to tune the memory allocator.
    """

    run: Path
    folder: Path
    current: Path
    options: Mapping[str, Any]
    allocator_tuning: bool


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file that is written.

    Attributes:
        number: Its number.
        rows: The number of its rows.
        unreadable: How many of them have an error.
    """

    number: int
    rows: int
    unreadable: int


class PartWriter:
    """Writes files of rows; the class that Ray Data calls.

    It returns errors of zoo instead of raising them, because Ray would print them at length, and
    raises them as others.

    Args:
        task: What to do.
        parts: The images of each file, in the object store of Ray, by the file's number.
    """

    def __init__(self, task: Task, parts: Mapping[int, Any]) -> None:
        self._task, self._parts = task, parts

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Write the files of a batch of numbers."""
        rows = [self._written(int(number)) for number in batch["number"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _written(self, number: int) -> dict[str, Any]:
        made = {"number": number, "rows": 0, "unreadable": 0, "kind": "", "text": "", "hint": ""}
        try:
            return made | self._write(number)
        except ZooError as error:
            kinds = (kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
            kind = next(kinds).__name__
            return made | {"kind": kind, "text": error.text, "hint": error.hint or ""}

    def _write(self, number: int) -> dict[str, Any]:
        predictor, items = self._predictor, ray.get(self._parts[number])
        file = part_file(self._task.folder, number)
        unreadable = 0

        def rows() -> Iterator[Mapping[str, Any]]:
            nonlocal unreadable
            images = [(item.name, item.image) for item in items if not item.skipped]
            for row in predictor.rows(images):
                unreadable += "error" in row
                yield row
            for item in items[len(images) :]:
                unreadable += 1
                found = Unreadable(path=Path(item.name), error=item.skipped)
                yield as_row(item.name, found, predictor.layout)

        try:
            with replacing(file) as beside:
                write_parquet(rows(), predictor.layout, beside)
        except OSError as error:
            raise RunError(
                f"can't write {file} on {socket.gethostname()}: {error.strerror or error}"
            ) from error
        return {"rows": len(items), "unreadable": unreadable}

    @cached_property
    def _predictor(self) -> Predictor:
        task = self._task
        if task.allocator_tuning:
            allocator.tune()
        try:
            os.chdir(task.current)
            if not task.folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "no such folder", str(task.folder))
        except OSError as error:
            raise RunError(
                f"{socket.gethostname()} does not see {error.filename}: {error.strerror}",
                hint="all machines must see the current folder, the run, the images and `out`",
            ) from error
        return Predictor(task.run, **task.options)


def write_parts(parts: Mapping[int, Sequence[Item]], task: Task, pool: Pool) -> Iterator[Part]:
    """Write files of rows on the cluster that this process is connected to.

    A file whose actor ends before it is written is written by another one. Ray restarts actors.

    Args:
        parts: The images of each file, by its number; those that are skipped come last.
        task: What to do.
        pool: The actors.

    Yields:
        Each file as soon as it is written, in any order.

    Raises:
        ZooError: An actor raised it.
        RunError: The cluster fails.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # The other one writes to Ray's own files.
            handler.setLevel(logging.CRITICAL)
    stored = {number: ray.put(list(items)) for number, items in parts.items()}
    numbers = ray.data.from_items(
        [{"number": number} for number in parts], override_num_blocks=len(parts)
    )
    written = numbers.map_batches(
        PartWriter,
        fn_constructor_args=[task, stored],
        compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(parts))),
        batch_size=1,
        **pool.resources,
    )
    try:
        for row in written.iter_rows():
            if row["kind"]:
                raise getattr(errors, row["kind"])(row["text"], hint=row["hint"] or None)
            yield Part(number=row["number"], rows=row["rows"], unreadable=row["unreadable"])
    except (RayError, ExecutionTimeoutError) as error:
        raise RunError(
            f"the cluster failed: {_last_line(error)}",
            hint="all its machines need zoo, its plugins and Ray in the versions of this one; "
            "`resume` continues",
        ) from error


def _last_line(error: Exception) -> str:
    """Return the last line of an error, which in a traceback from an actor is what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return clip(printable(lines[-1] if lines else type(error).__name__))
