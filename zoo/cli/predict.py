"""`zoo predict`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Union

import click
from rich.cells import cell_len

from zoo.cli.options import (
    allocator_option,
    answer_options,
    asked_of,
    device_option,
    format_option,
)
from zoo.cli.start import starting
from zoo.cli.tables import label, number, plain_console, print_table, text
from zoo.cli.words import echo, echo_json_lines, echo_json_list
from zoo.errors import DataError
from zoo.io.text import count, printable, spreadsheet_cell

if TYPE_CHECKING:
    import numpy as np

    from zoo.runs.read import Asked, Prediction, Run


@click.command("predict", short_help="Classify images with a run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE_OR_DIR..."
)
@format_option("table", "json", "jsonl", "csv")
@click.option(
    "--top-k",
    type=click.IntRange(1),
    help="Classes to name per image, at most.  [default: 5; csv: the best]",
)
@answer_options
@device_option
@allocator_option
def command(
    run: Path,
    images: tuple[Path, ...],
    form: str,
    top_k: int | None,
    device: str,
    allocator_tuning: bool,
    **asked: float | None,
) -> None:
    """Classify images with RUN, a run folder or its model.safetensors.

    Folders are searched for images, including subfolders. Files that can't be read or have several
    images (an animation, pages) are named on stderr; files without an image extension are counted
    there by extension. In JSON, each of these files has an entry with an error instead of a label.
    In tables and CSV, control characters in names are shown as in Python (\\x1b), and in CSV, ' is
    put before names that a spreadsheet would take for a formula; JSON has the exact names. In CSV,
    several labels are in one cell, separated by |.

    Images unlike the training images are marked as unfamiliar; do not rely on their labels. With
    --min-confidence or --max-error, the label of an image may be unsure: in JSON, label is null and
    unsure is true; in CSV, the label is empty.

    On Ctrl-C, finished predictions are printed, and the exit code is 130. With jsonl, each line is
    printed as soon as its batch is done.

    \b
      zoo predict runs/photos-resnet18 a.jpg holiday/
      zoo predict model.safetensors holiday/ --format csv > labels.csv
    """
    if form == "csv" and top_k is not None:
        raise click.UsageError("--top-k applies to table and json; csv names the best class")
    with starting(allocator_tuning=allocator_tuning):
        from zoo.data.sources.extensions import skipped
        from zoo.runs.read import load

    loaded = load(run, device=device)
    several = not loaded.task.exclusive
    # A table shows the whole set, which may have more classes than are shown without it.
    most_classes = len(loaded.class_names) if asked["set_coverage"] and form == "table" else 5
    wanted = asked_of(loaded, top_k=top_k or most_classes, **asked)
    files, others = _files(images)
    sets = asked["set_coverage"] is not None
    write = partial(_WRITERS[form], several=several, sets=sets)
    done: list[Entry] = []
    try:
        write(_entries(loaded, files, others, wanted, done))
    except KeyboardInterrupt:
        echo(f"! interrupted: {len(done)} of {len(files)} images are done", err=True)
        raise SystemExit(130) from None
    unreadable = sum(isinstance(entry, Unread) for entry in done)
    if unreadable:
        echo(f"! {count(unreadable, 'unreadable image')} left out", err=True)
    lines = [f"skipped {line}" for line in skipped(others)]
    for line in lines:
        echo(f"! {line}", err=True)
    if unreadable == len(files):
        because = "".join(f"\n  {line}" for line in lines)
        raise DataError(f"no readable images in {', '.join(map(printable, images))}{because}")


@dataclass(frozen=True)
class Unread:
    """A file without a prediction, and why."""

    path: Path
    error: str


Entry = Union["Prediction", Unread]


def _entries(
    run: Run,
    files: list[Path],
    others: list[Path],
    asked: Asked,
    done: list[Entry],
) -> Iterator[Entry]:
    """Yield an entry for each file, batch by batch; append those of `files` to `done`."""
    from zoo.data.sources.extensions import reason_of

    for entry in _predictions(run, files, asked):
        done.append(entry)
        yield entry
    for path in others:
        yield Unread(path, f"skipped: {reason_of(path)}")


def _predictions(run: Run, files: list[Path], asked: Asked) -> Iterator[Entry]:
    from zoo.runs.inference import BATCH_SIZE

    for start in range(0, len(files), BATCH_SIZE):
        decoded: list[np.ndarray] = []
        read: list[Path | Unread] = []
        for path in files[start : start + BATCH_SIZE]:
            try:
                # Only one photo of a batch at a time is in memory in its full size.
                decoded.append(run.prepare(path))
                read.append(path)
            except DataError as error:
                read.append(Unread(path, str(error)))
                echo(f"! {printable(error)}", err=True)
        paths = [each for each in read if isinstance(each, Path)]
        predictions = iter(run.predict_prepared(decoded, paths, asked))
        for each in read:
            yield each if isinstance(each, Unread) else next(predictions)


def _files(paths: tuple[Path, ...]) -> tuple[list[Path], list[Path]]:
    """Return the image files, given or found in folders, and the other files of the folders."""
    from zoo.data.files import is_url
    from zoo.data.sources.layout import files_in

    for path in paths:
        try:
            path.stat()
        except FileNotFoundError:
            url = "; it is a URL: download it first" if is_url(path) else ""
            raise DataError(f"no such image or folder: {printable(path)}{url}") from None
        except OSError as error:
            raise DataError(f"can't read {printable(path)}: {error.strerror}") from error
    images, others = [], []
    for path in paths:
        found = files_in(path) if path.is_dir() else ([path], [])
        images += found[0]
        others += found[1]
    return images, others


def _write_json(entries: Iterator[Entry], *, several: bool, sets: bool) -> None:
    echo_json_list(_as_dict(entry, several, sets) for entry in entries)


def _write_jsonl(entries: Iterator[Entry], *, several: bool, sets: bool) -> None:
    echo_json_lines(_as_dict(entry, several, sets) for entry in entries)


def _write_csv(entries: Iterator[Entry], *, several: bool, sets: bool) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    columns = ["labels"] if several else ["label", "probability", "unsure"]
    writer.writerow(["path", *columns, "unfamiliar", *(["label_set"] if sets else [])])
    for p in _predicted(entries):
        names = [str(p.path), "|".join(p.labels), *(["|".join(p.label_set or ())] if sets else [])]
        path, label, *label_set = map(spreadsheet_cell, names)
        numbers = [] if several else [f"{p.probability:.6f}", _yes_no(p.unsure)]
        writer.writerow([path, label, *numbers, _yes_no(_unfamiliar(p)), *label_set])


def _yes_no(value: bool | None) -> str:
    return {True: "true", False: "false", None: ""}[value]


def _unfamiliar(prediction: Prediction) -> bool | None:
    return None if prediction.familiar is None else not prediction.familiar


def _write_table(entries: Iterator[Entry], *, several: bool, sets: bool) -> None:
    console = plain_console()
    for p in _predicted(entries):
        ranked = [(label, f"{probability:.1%}") for label, probability in p.top]
        if several:
            # Labels below the threshold are marked; they come after the predicted ones.
            mark = {True: "", False: " (no)"}
            ranked = [(label, value + mark[label in p.labels]) for label, value in ranked]
        elif sets:
            ranked = [(label, value) for label, value in ranked if label in (p.label_set or ())]
        marks = ["unsure"] if p.unsure else []
        marks += ["unfamiliar"] if _unfamiliar(p) else []
        start = "".join(f"  {mark}:" for mark in marks)
        top = "  ".join(f"{printable(label)} {value}" for label, value in ranked)
        line = f"{printable(p.path)}{start}  {top}"
        if cell_len(line) <= console.width:
            echo(line)
        else:
            # The path is not wrapped, so that it can be copied.
            echo(f"{printable(p.path)}{start}")
            rows = [("", value, label_) for label_, value in ranked]
            print_table([label(), number(), text()], rows, console=console)


def _predicted(entries: Iterator[Entry]) -> Iterator[Prediction]:
    return (entry for entry in entries if not isinstance(entry, Unread))


def _as_dict(entry: Entry, several: bool, sets: bool) -> dict[str, object]:
    from zoo.runs.answer import answer

    if isinstance(entry, Unread):
        return {
            "path": str(entry.path),
            "labels" if several else "label": None,
            "error": entry.error,
        }
    return {"path": str(entry.path), **answer(entry, several=several, sets=sets)}


_WRITERS: dict[str, Callable[..., None]] = {
    "json": _write_json,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "table": _write_table,
}
