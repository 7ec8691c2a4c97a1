"""The last step of a run: measure the final model once on held-out images, and record it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from zoo.data.decoded import DecodedImages
from zoo.data.sample import Sample
from zoo.data.split import Splits
from zoo.data.transforms import eval_transform
from zoo.events import Listener, Measured, Note
from zoo.report.build import Subject, report_run
from zoo.runs.card import write_card
from zoo.runs.confidence import confidence_of
from zoo.runs.familiarity import fit_familiarity, most_images
from zoo.runs.figures import Figures, doubt, figures
from zoo.runs.folds import has_folds, read_folds
from zoo.runs.inference import eval_batches
from zoo.runs.read import Run, model_file, read_tensors
from zoo.runs.scores import COLUMNS, Scores, features_and_logits, rows_of, write_predictions
from zoo.runs.temperature import FEW, fit_temperature
from zoo.runs.write import write_model
from zoo.tasks import SINGLE_LABEL
from zoo.weights.header import read_header


def conclude(run: Run, splits: Splits, listen: Listener, *, report: bool = True) -> Run:
    """Measure a run's final model on its val and test images, and complete the run folder.

    Fits the temperature of its probabilities and the limit of what is familiar on the val images.
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
    measured = [_score(run, "val", splits.val, splits)] if splits.val else []
    run = _calibrated(run, measured[0] if measured else None, splits, listen)
    if splits.test:
        measured.append(_score(run, "test", splits.test, splits))
    info, task, folder = run.info, run.task, run.path
    calibrated = {s.split: s.logits / info.temperature for s in measured}
    metrics = {s.split: dict(task.measure(calibrated[s.split], s.targets).values) for s in measured}
    if "test" in metrics:
        info = replace(info, test_metrics=metrics["test"])
    found = {
        s.split: figures(calibrated[s.split], s.targets, info.class_names, task, s.groups)
        for s in measured
    }
    of_folds = read_folds(folder)[1] if has_folds(folder) else None
    # Those by class, of which there may be thousands, follow from predictions.parquet.
    kept = {split: replace(f, classes=()) for split, f in found.items()}
    info = replace(info, figures=kept if of_folds is None else {"folds": of_folds, **kept})
    columns: dict[str, list[object]] = {}
    if not measured:
        columns = {name: [] for name in (*sorted(COLUMNS), *(f"p_{n}" for n in info.class_names))}
    for each in measured:
        for name, values in rows_of(each, info, task).items():
            columns.setdefault(name, []).extend(values)
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


def _calibrated(run: Run, val: Scores | None, splits: Splits, listen: Listener) -> Run:
    """Return the run with what the val images say of its probabilities, and with what is familiar.

    A `Note` says if there are no val images, or too few for a temperature that rests on them.
    """
    info, task = run.info, run.task
    some = _balanced(splits.train, most_images(len(info.class_names)))
    train = _score(run, "train", some, splits)
    held_out = train.features[:0] if val is None else val.features
    known = fit_familiarity(train.features, held_out, len(info.class_names))
    info = replace(info, familiarity=known)
    if val is None:
        listen(Note(text="probabilities are not calibrated: there are no val images"))
        return replace(run, info=info)
    temperature = fit_temperature(val.logits, val.targets, task, probe=info.epoch == 0)
    if len(val.targets) < FEW:
        text = (
            f"temperature {temperature:g} rests on what is usual more than on the "
            f"{len(val.targets)} val images; probabilities are rough estimates"
        )
        listen(Note(text=text))
    confidence = None
    if task is SINGLE_LABEL:
        confidence = confidence_of(task.probabilities(val.logits / temperature), val.targets)
    return replace(run, info=replace(info, temperature=temperature, confidence=confidence))


def _balanced(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Return at most that many samples, as many of each label set as possible, deterministically.

    Samples take turns by label, in the order of the hash of their names.
    """
    if len(samples) <= most:
        return list(samples)
    turn: Counter[tuple[str, ...]] = Counter()
    ranked: list[tuple[int, int, Sample]] = []
    for sample in sorted(samples, key=lambda s: sha256(os.fsencode(s.name)).digest()):
        ranked.append((turn[sample.labels], len(ranked), sample))
        turn[sample.labels] += 1
    return [sample for _, _, sample in sorted(ranked, key=lambda each: each[:2])[:most]]


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
