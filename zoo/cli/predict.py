"""`zoo predict`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import allocator_option, device_option, format_option
from zoo.cli.start import starting
from zoo.cli.words import echo, echo_json, shown
from zoo.errors import DataError
from zoo.text import spreadsheet_cell

if TYPE_CHECKING:
    from zoo.run.read import Prediction, Run


@click.command("predict", short_help="Classify images with a run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE_OR_DIR..."
)
@format_option("table", "json", "csv")
@click.option(
    "--top-k",
    type=click.IntRange(1),
    help="Classes to name per image, at most.  [default: 5; csv: the best]",
)
@device_option
@allocator_option
def command(
    run: Path,
    images: tuple[Path, ...],
    form: str,
    top_k: int | None,
    device: str,
    allocator_tuning: bool,
) -> None:
    """Classify images with RUN, a run folder or its model.safetensors.

    Folders are searched for images, subfolders too. What can't be read, or holds several pictures
    (an animation, pages), is named on stderr and left out. In a table and in CSV, control
    characters in names are shown as in Python (\\x1b), and in CSV ' is put before a name that a
    spreadsheet would take for a formula; JSON has them exactly.

    \b
      zoo predict runs/photos-resnet18 a.jpg holiday/
      zoo predict model.safetensors holiday/ --format csv > labels.csv
    """
    if form == "csv" and top_k is not None:
        raise click.UsageError("--top-k goes with table and json; csv names the best class")
    with starting(allocator_tuning=allocator_tuning):
        from zoo.data.files import shown
        from zoo.run.read import load

    loaded = load(run, device=device)
    files = _files(images)
    write = {"json": _write_json, "csv": _write_csv, "table": _write_table}[form]
    unreadable: list[Path] = []
    write(_predictions(loaded, files, top_k or 5, unreadable))
    if unreadable:
        echo(f"! {len(unreadable)} unreadable images left out", err=True)
    if len(unreadable) == len(files):
        raise DataError(f"no readable images in {', '.join(map(shown, images))}")


def _predictions(
    run: Run, files: list[Path], top_k: int, unreadable: list[Path]
) -> Iterator[Prediction]:
    """Predictions as they are made, batch by batch; adds to `unreadable` what can't be."""
    from zoo.data.image import read_image
    from zoo.data.split import Sample
    from zoo.data.transforms import eval_transform
    from zoo.run.inference import BATCH_SIZE

    prepare = eval_transform(run.info.preprocess).prepare
    for start in range(0, len(files), BATCH_SIZE):
        samples, paths = [], []
        for path in files[start : start + BATCH_SIZE]:
            try:
                # Of a batch of photos in full size, one lies in memory at a time.
                base = prepare(read_image(path, value_range=prepare.preprocess.value_range))
                samples.append(Sample(name=str(path), label=0, image=base))
                paths.append(path)
            except DataError as error:
                unreadable.append(path)
                echo(f"! {shown(error)}", err=True)
        for path, prediction in zip(paths, run.predict_samples(samples, top_k=top_k), strict=True):
            yield replace(prediction, path=path)


def _files(paths: tuple[Path, ...]) -> list[Path]:
    """The images meant: files as given, folders searched."""
    from zoo.data.files import is_url, shown
    from zoo.data.layout import images_in

    for path in paths:
        try:
            path.stat()
        except FileNotFoundError:
            url = "; it is a URL: download it first" if is_url(path) else ""
            raise DataError(f"no such image or folder: {shown(path)}{url}") from None
        except OSError as error:
            raise DataError(f"can't look at {shown(path)}: {error.strerror}") from error
    return [f for path in paths for f in (images_in(path) if path.is_dir() else [path])]


def _write_json(predictions: Iterator[Prediction]) -> None:
    echo_json([_as_dict(p) for p in predictions])


def _write_csv(predictions: Iterator[Prediction]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "label", "probability"])
    for p in predictions:
        cells = (spreadsheet_cell(text) for text in (str(p.path), p.label))
        writer.writerow([*cells, f"{p.probability:.6f}"])


def _write_table(predictions: Iterator[Prediction]) -> None:
    for p in predictions:
        top = "  ".join(f"{shown(label)} {probability:.1%}" for label, probability in p.top)
        echo(f"{shown(p.path)}  {top}")


def _as_dict(prediction: Prediction) -> dict[str, object]:
    return {
        "path": str(prediction.path),
        "label": prediction.label,
        "probability": prediction.probability,
        "top": [{"label": label, "probability": p} for label, p in prediction.top],
    }
