"""The last step of a run: measure the final model once on held-out images, and record it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zoo.data.decoded import DecodedImages
from zoo.data.sample import Sample
from zoo.data.split import Splits
from zoo.data.transforms import eval_transform
from zoo.events import Listener, Measured
from zoo.report.build import Subject, report_run
from zoo.runs.card import write_card
from zoo.runs.figures import Figures, doubt, figures
from zoo.runs.inference import eval_batches
from zoo.runs.read import Run, model_file, read_tensors
from zoo.runs.scores import Scores, features_and_logits, rows_of, write_predictions
from zoo.runs.write import write_model
from zoo.weights.header import read_header


def conclude(run: Run, splits: Splits, listen: Listener, *, report: bool = True) -> Run:
    """Measure a run's final model on its val and test images, and complete the run folder.

    Writes predictions.parquet, writes the model's metadata and card again with the figures, and
    then the report. It may be repeated: the same model and images give the same files.

    Args:
        run: The run, as loaded from its folder.
        splits: Its images. The test split is used nowhere else.
        listen: Receives a `Measured` for each split.
        report: Whether to write the report.

    Returns:
        The run with its new metadata.

    Raises:
        RunError: A file can't be written, or a score is not finite.
    """
    measured = [_score(run, "val", splits.val, splits)]
    if splits.test:
        measured.append(_score(run, "test", splits.test, splits))
    info, task = run.info, run.task
    metrics = {s.split: dict(task.measure(s.logits, s.targets).values) for s in measured}
    if "test" in metrics:
        info = replace(info, test_metrics=metrics["test"])
    found = {
        s.split: figures(s.logits, s.targets, info.class_names, task, s.groups) for s in measured
    }
    # Those by class, of which there may be thousands, follow from predictions.parquet.
    info = replace(info, figures={split: replace(f, classes=()) for split, f in found.items()})
    columns: dict[str, list[object]] = {}
    for each in measured:
        for name, values in rows_of(each, info.class_names, task).items():
            columns.setdefault(name, []).extend(values)
    folder = run.path
    write_predictions(folder, columns, info.class_names)
    write_card(
        folder,
        info,
        run.backbone,
        train=splits.counts(splits.train),
        val=splits.counts(splits.val),
        val_images=len(splits.val),
    )
    file = model_file(Path(folder))
    write_model(folder, read_tensors(file, read_header(file)), info)
    for split in found:
        listen(_event(split, found[split]))
    run = replace(run, info=info)
    if report:
        report_run(Subject(run=run, columns=columns, figures=found, splits=splits), listen)
    return run


def _event(split: str, found: Figures) -> Measured:
    return Measured(
        split=split,
        images=found.images,
        metrics={name: (f.value, f.low, f.high) for name, f in found.metrics.items()},
        main=found.main,
        baseline=found.baseline.value,
        doubt=doubt(found, split),
    )


def _score(run: Run, split: str, samples: Sequence[Sample], splits: Splits) -> Scores:
    bases = DecodedImages(samples, eval_transform(run.info.preprocess).prepare)
    features, logits = features_and_logits(
        run.model, run.backbone, eval_batches(bases), run.info.preprocess
    )
    return Scores(
        split=split,
        samples=samples,
        targets=run.task.targets(splits.indices(samples), len(splits.class_names)),
        logits=logits,
        features=features,
    )
