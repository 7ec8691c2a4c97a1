"""`zoo predict`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from zoo.run.read import Prediction


@click.command("predict", short_help="Classify images with a run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE_OR_DIR..."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How to print.",
)
@click.option(
    "--top-k",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Classes to name per image, at most.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
def command(run: Path, images: tuple[Path, ...], form: str, top_k: int, device: str) -> None:
    """Classify images with RUN, a run folder or its model.safetensors.

    Folders are searched for images, subfolders too. An unreadable image is named on stderr and left
    out.

    \b
      zoo predict runs/photos-resnet18 a.jpg holiday/
      zoo predict model.safetensors holiday/ --format csv > labels.csv
    """
    from zoo.data.folder import Sample
    from zoo.data.image import read_image
    from zoo.errors import DataError
    from zoo.run.read import load

    loaded = load(run, device=device)
    samples = []
    unreadable = 0
    for path in _files(images):
        try:
            read_image(path)
        except DataError as error:
            unreadable += 1
            click.echo(f"! {error}", err=True)
        else:
            samples.append(Sample(name=str(path), label=0, image=path))
    if unreadable:
        click.echo(f"! {unreadable} unreadable images left out", err=True)
    if not samples:
        raise DataError(f"no readable images in {', '.join(map(str, images))}")
    _print(loaded.predict_samples(samples, top_k=top_k), form)


def _files(paths: tuple[Path, ...]) -> list[Path]:
    """The images meant: files as given, folders searched."""
    from zoo.data.folder import images_in
    from zoo.errors import DataError

    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DataError(f"no such image or folder: {', '.join(missing)}")
    return [f for path in paths for f in (images_in(path) if path.is_dir() else [path])]


def _print(predictions: list[Prediction], form: str) -> None:
    if form == "json":
        click.echo(json.dumps([_as_dict(p) for p in predictions], indent=2, ensure_ascii=False))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["path", "label", "probability"])
        writer.writerows([str(p.path), p.label, f"{p.probability:.6f}"] for p in predictions)
    else:
        width = max(len(str(p.path)) for p in predictions)
        for p in predictions:
            top = "  ".join(f"{label} {probability:.1%}" for label, probability in p.top)
            click.echo(f"{p.path!s:{width}}  {top}")


def _as_dict(prediction: Prediction) -> dict[str, object]:
    return {
        "path": str(prediction.path),
        "label": prediction.label,
        "probability": prediction.probability,
        "top": [{"label": label, "probability": p} for label, p in prediction.top],
    }
