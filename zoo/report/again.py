"""Write the report of a finished run again, or one on other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zoo.data.check import (
    Examined,
    by_content,
    examine_samples,
    examined_store,
    sizes_of,
    warn_of,
)
from zoo.data.decoded import DecodedImages
from zoo.data.sample import Sample
from zoo.data.scan import Verdict
from zoo.data.split import Splits
from zoo.data.transforms import eval_transform
from zoo.errors import DataError, RunError
from zoo.io.files import expand, is_file
from zoo.io.text import clip
from zoo.report.build import Subject, report_html
from zoo.runs.evaluate import Reading, Split, images_of, splits_of
from zoo.runs.inference import eval_batches
from zoo.runs.read import Run, load
from zoo.runs.scores import Scores, features_and_logits, read_columns, rows_of
from zoo.runs.write import PREDICTIONS, REPORT, write_file


def write_report(
    run: str | Path,
    data: str | Path | None = None,
    *,
    split: Split = "val",
    output: str | Path | None = None,
    strict: bool = False,
    follow_links: bool = False,
    allow_network: bool = False,
    device: str = "auto",
) -> Path:
    """Write the report of a run again, or one that measures it on other labelled images.

    Args:
        run: A run folder; with `data`, also a model.safetensors alone.
        data: Labelled folder or table. Default: the run's own predictions, with thumbnails if its
            images are still where they were.
        split: Which images of `data`, as in `Run.evaluate`.
        output: The file. Default: report.html in the run folder; with `data`,
            `NAME-report.html` in the current folder.
        strict: As in `Run.evaluate`, for `data`.
        follow_links: As in `Run.evaluate`, for `data`.
        allow_network: As in `Run.evaluate`, for `data`.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Returns:
        The file.

    Raises:
        RunError: There is no run, it has no predictions, or the file can't be written.
        DataError: There are no such images, they do not fit the run, or (strict) one is unreadable,
            has a wrong extension, or a link leads out of the folder.
    """
    loaded = load(run, device=device)
    if data is None:
        subject = _of_run(loaded)
        file = loaded.path / REPORT
    else:
        where = expand(data)
        reading = Reading(
            split=split, strict=strict, follow_links=follow_links, allow_network=allow_network
        )
        splits, source = images_of(loaded.info, where, reading)
        subject = _of_data(loaded, splits, split, source)
        file = Path(f"{where.resolve().name or 'data'}-report.html")
    if output is not None:
        file = expand(output)
    write_file(file, report_html(subject).encode())
    return file


def _of_run(run: Run) -> Subject:
    if not is_file(run.path / PREDICTIONS):
        raise RunError(
            f"{run.path} has no {PREDICTIONS}: it is a file alone, not complete, or of an "
            "earlier version",
            hint="name labelled images with `data`",
        )
    columns = read_columns(run.path / PREDICTIONS)
    try:
        return Subject(run=run, columns=columns, splits=_images(run))
    except DataError as error:
        return Subject(run=run, columns=columns, no_images=f"images: {clip(error.text)}")


def _images(run: Run) -> Splits:
    """Read and check the images that the run was trained on.

    Raises:
        DataError: They are no longer there, or are others.
    """
    examined: list[Examined] = []
    channels = run.info.preprocess.channels
    with examined_store() as known:

        def scan(samples: Sequence[Sample]) -> list[Verdict]:
            found = examine_samples(samples, known if run.info.recipe.cache_size else None)
            examined.extend(found)
            return [each.verdict(channels) for each in found]

        demo = run.info.recipe.data is None
        splits = splits_of(run.info, scan=None if demo else scan)
    sizes = sizes_of(splits) if run.info.recipe.held_out_fold is None else []
    warned = warn_of(splits, by_content(examined), channels=channels)
    return replace(splits, findings=(*warned, *sizes))


def _of_data(run: Run, splits: Splits, split: Split, source: str) -> Subject:
    decoded = DecodedImages(splits.val, eval_transform(run.info.preprocess).prepare)
    features, logits = features_and_logits(
        run.model, run.backbone, eval_batches(decoded), run.info.preprocess
    )
    scores = Scores(
        split=split,
        samples=splits.val,
        targets=run.task.targets(splits.indices(splits.val), len(splits.class_names)),
        logits=logits,
        features=features,
    )
    columns = rows_of(scores, run.info, run.task)
    return Subject(run=run, columns=columns, splits=splits, source=source)
