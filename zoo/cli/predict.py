"""`zoo predict`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import click
from rich.cells import cell_len

from zoo.cli.options import allocator_option, device_option, format_option
from zoo.cli.start import starting
from zoo.cli.tables import label, number, plain_console, print_table, text
from zoo.cli.words import count, echo, echo_json_lines, echo_json_list
from zoo.errors import DataError
from zoo.io.text import printable, spreadsheet_cell

if TYPE_CHECKING:
    import numpy as np

    from zoo.runs.read import Prediction, Run


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
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=None,
    help="Multi-label runs: probability from which on a label is predicted.  [default: 0.5]",
)
@device_option
@allocator_option
def command(
    run: Path,
    images: tuple[Path, ...],
    form: str,
    top_k: int | None,
    threshold: float | None,
    device: str,
    allocator_tuning: bool,
) -> None:
    """Classify images with RUN, a run folder or its model.safetensors.

    Folders are searched for images, including subfolders. Files that can't be read or have several
    images (an animation, pages) are named on stderr; files without an image extension are counted
    there by extension. In JSON, each of these files has an entry with an error instead of a label.
    In tables and CSV, control characters in names are shown as in Python (\\x1b), and in CSV, ' is
    put before names that a spreadsheet would take for a formula; JSON has the exact names. In CSV,
    the labels of a multi-label run are in one cell, separated by |.

    On Ctrl-C, finished predictions are printed, and the exit code is 130. With jsonl, each line is
    printed as soon as its batch is done.

    \b
      zoo predict runs/photos-resnet18 a.jpg holiday/
      zoo predict model.safetensors holiday/ --format csv > labels.csv
    """
    if form == "csv" and top_k is not None:
        raise click.UsageError("--top-k goes with table and json; csv names the best class")
    with starting(allocator_tuning=allocator_tuning):
        from zoo.data.sources.extensions import skipped
        from zoo.runs.read import load

    loaded = load(run, device=device)
    several = loaded.info.task == "multi-label"
    if threshold is not None and not several:
        raise click.UsageError("--threshold goes with multi-label runs; this one is single-label")
    files, others = _files(images)
    write = partial(_WRITERS[form], several=several)
    done: list[Entry] = []
    asked = {"top_k": top_k or 5} | ({} if threshold is None else {"threshold": threshold})
    try:
        write(_entries(loaded, files, others, asked, done))
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
    asked: Mapping[str, Any],
    done: list[Entry],
) -> Iterator[Entry]:
    """Yield an entry for each file, batch by batch; append those of `files` to `done`."""
    from zoo.data.sources.extensions import reason_of

    for entry in _predictions(run, files, asked):
        done.append(entry)
        yield entry
    for path in others:
        yield Unread(path, f"skipped: {reason_of(path)}")


def _predictions(run: Run, files: list[Path], asked: Mapping[str, Any]) -> Iterator[Entry]:
    from zoo.runs.inference import BATCH_SIZE

    for start in range(0, len(files), BATCH_SIZE):
        bases: list[np.ndarray] = []
        read: list[Path | Unread] = []
        for path in files[start : start + BATCH_SIZE]:
            try:
                # Only one photo of a batch at a time is in memory in its full size.
                bases.append(run.prepare(path))
                read.append(path)
            except DataError as error:
                read.append(Unread(path, str(error)))
                echo(f"! {printable(error)}", err=True)
        paths = [each for each in read if isinstance(each, Path)]
        predictions = iter(run.predict_prepared(bases, paths, **asked))
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
            raise DataError(f"can't look at {printable(path)}: {error.strerror}") from error
    images, others = [], []
    for path in paths:
        found = files_in(path) if path.is_dir() else ([path], [])
        images += found[0]
        others += found[1]
    return images, others


def _write_json(entries: Iterator[Entry], *, several: bool) -> None:
    echo_json_list(_as_dict(entry, several) for entry in entries)


def _write_jsonl(entries: Iterator[Entry], *, several: bool) -> None:
    echo_json_lines(_as_dict(entry, several) for entry in entries)


def _write_csv(entries: Iterator[Entry], *, several: bool) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", *(["labels"] if several else ["label", "probability"])])
    for p in _predicted(entries):
        label = "|".join(p.labels) if several else p.label
        cells = [spreadsheet_cell(text) for text in (str(p.path), label)]
        writer.writerow(cells if several else [*cells, f"{p.probability:.6f}"])


def _write_table(entries: Iterator[Entry], *, several: bool) -> None:
    console = plain_console()
    for p in _predicted(entries):
        ranked = [(label, f"{probability:.1%}") for label, probability in p.top]
        if several:
            # Labels below the threshold are marked; they come after the predicted ones.
            mark = {True: "", False: " (no)"}
            ranked = [(label, value + mark[label in p.labels]) for label, value in ranked]
        top = "  ".join(f"{printable(label)} {value}" for label, value in ranked)
        line = f"{printable(p.path)}  {top}"
        if cell_len(line) <= console.width:
            echo(line)
        else:
            # The path is not wrapped, so that it can be copied.
            echo(printable(p.path))
            rows = [("", value, label_) for label_, value in ranked]
            print_table([label(), number(), text()], rows, console=console)


def _predicted(entries: Iterator[Entry]) -> Iterator[Prediction]:
    return (entry for entry in entries if not isinstance(entry, Unread))


def _as_dict(entry: Entry, several: bool) -> dict[str, object]:
    named = "labels" if several else "label"
    if isinstance(entry, Unread):
        return {"path": str(entry.path), named: None, "error": entry.error}
    found = {"labels": entry.labels} if several else {"label": entry.label}
    return {
        "path": str(entry.path),
        **found,
        **({} if several else {"probability": entry.probability}),
        "top": [{"label": label, "probability": p} for label, p in entry.top],
    }


_WRITERS: dict[str, Callable[..., None]] = {
    "json": _write_json,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "table": _write_table,
}
