"""The last step of a run: measure the final model once on held-out images, and record it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn.functional import linear

from zoo.data.dataset import ImageDataset
from zoo.data.decoded import DecodedImages, content_keys
from zoo.data.sample import Sample
from zoo.data.transforms import eval_transform
from zoo.events import Listener, Measured, Note
from zoo.features.extract import Features
from zoo.features.rows import views_of
from zoo.features.shift import LEAST_IMAGES, measure_shift
from zoo.features.stores import FrozenPart, Stores
from zoo.machine.processes import together
from zoo.models.head import head_leaves
from zoo.models.replay import Boundary
from zoo.planning import Prepared
from zoo.report.build import Subject, report_run
from zoo.report.mistakes import mistakes
from zoo.runs.card import write_card
from zoo.runs.familiarity import fit_familiarity, most_images
from zoo.runs.figures import Figures, doubt, figures
from zoo.runs.folds import Folds, has_folds, read_folds
from zoo.runs.inference import check_finite
from zoo.runs.read import Run, model_file, read_tensors
from zoo.runs.scores import (
    COLUMNS,
    Columns,
    Scores,
    divided_scores,
    joined,
    rows_of,
    write_predictions,
)
from zoo.runs.shift import Shift, describe_shift
from zoo.runs.temperature import FEW, Calibration, calibrate
from zoo.runs.write import ModelInfo, describe_thresholds, write_model
from zoo.weights.header import read_header


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of a run's images by its final model.

    Attributes:
        train: Of some of the train images, of as many of each label as possible.
        held_out: Of the val images, if there are any, and then of the test images.
    """

    train: Scores
    held_out: tuple[Scores, ...]


def score_splits(run: Run, prepared: Prepared, listen: Listener) -> Scored | None:
    """Score a run's images by its final model; several processes divide them.

    Returns:
        The scores in the main process; None in the others.

    Raises:
        DataError: A photo can no longer be read, or has changed.
        RunError: A score is not finite.
    """
    splits = prepared.splits
    some = _balanced(splits.train, most_images(len(run.class_names)))
    with Stores(prepared.plan.recipe, listen) as stores:
        scorer = _Scorer(run, prepared, stores)
        found = [
            scorer.score(split, samples)
            for split, samples in (("val", splits.val), ("train", some), ("test", splits.test))
            if samples
        ]
    scores = [each for each in found if each is not None]
    if not scores:
        return None
    return Scored(
        train=next(each for each in scores if each.split == "train"),
        held_out=tuple(each for each in scores if each.split != "train"),
    )


def conclude(
    run: Run, prepared: Prepared, scored: Scored, listen: Listener, *, report: bool = True
) -> Run:
    """Measure a run's final model on its val and test images, and complete the run folder.

    Fits the temperature of its probabilities and the limit of what is familiar on the val images,
    or the temperature on out-of-fold predictions if these are missing or too few.
    Writes predictions.parquet, writes the model's metadata and card again with the figures, and
    then the report. It may be repeated: the same model and images give the same files.
    `listen` receives a `Measured` and, in the end, a `Mistakes` for each split. The test split is
    used nowhere else.

    Raises:
        RunError: A file can't be written.
    """
    splits, train, measured = prepared.splits, scored.train, scored.held_out
    folder = run.path
    folds = read_folds(folder) if has_folds(folder) else None
    run = _calibrated(run, train, measured[0] if splits.val else None, folds, listen)
    info, task = run.info, run.task
    if splits.test:
        info = replace(info, shift=_shifted(run, train, measured, listen))
    calibrated = {s.split: s.logits / info.temperature for s in measured}
    metrics = {s.split: dict(task.measure(calibrated[s.split], s.targets).values) for s in measured}
    if "test" in metrics:
        info = replace(info, test_metrics=metrics["test"])
    found = {
        s.split: figures(calibrated[s.split], s.targets, info.class_names, task, s.groups)
        for s in measured
    }
    of_folds = None if folds is None else folds.figures
    # Those by class, of which there may be thousands, follow from predictions.parquet.
    kept = {split: replace(f, classes=()) for split, f in found.items()}
    info = replace(info, figures=kept if of_folds is None else {"folds": of_folds, **kept})
    images = {"train": splits.train, "val": splits.val, "test": splits.test}
    counts = {split: tuple(splits.counts(samples)) for split, samples in images.items() if samples}
    info = replace(info, counts=counts)
    rows = [rows_of(each, info, task) for each in measured]
    columns: Columns
    if rows:
        columns = joined(rows)
    else:
        columns = {name: [] for name in (*sorted(COLUMNS), *(f"p_{n}" for n in info.class_names))}
    write_predictions(folder, columns, info.class_names)
    write_card(
        folder,
        info,
        run.backbone,
        val_images=len(splits.val),
        classes={split: f.classes for split, f in found.items()},
    )
    file = model_file(Path(folder))
    write_model(folder, read_tensors(file, read_header(file)), info)
    for split in found:
        listen(_event(split, found[split]))
    run = replace(run, info=info)
    if report:
        report_run(Subject(run=run, columns=columns, figures=found, splits=splits), listen)
    for scores, of_split in zip(measured, rows, strict=True):
        listen(mistakes(run, scores, of_split))
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


def _calibrated(
    run: Run, train: Scores, val: Scores | None, folds: Folds | None, listen: Listener
) -> Run:
    """Return the run with what held-out images say of its probabilities, and with what is familiar.

    Thresholds of labels are among it. `train` are scores of some of the train images. A `Note` says
    if there are no held-out images, or too few for a temperature that rests on them.
    """
    info, task = run.info, run.task
    no_features = train.features[:0]
    known = fit_familiarity(
        train.features, no_features if val is None else val.features, len(info.class_names)
    )
    info = replace(info, familiarity=known)
    val_images = 0 if val is None else len(val.targets)
    if folds is not None and folds.calibration is not None:
        info, images = _with(info, folds.calibration, "folds"), folds.calibration.images
    elif info.calibrated == "probe":
        images = len(train.targets) + val_images
    elif val is not None:
        found = calibrate(val.logits, val.targets, task, probe=info.epoch == 0)
        info, images = _with(info, found, "val"), val_images
    else:
        listen(Note(text="probabilities are not calibrated: there are no held-out images"))
        return replace(run, info=info)
    if info.thresholds:
        listen(Note(text=describe_thresholds(info), detail=True))
    if images < FEW:
        text = (
            f"temperature {info.temperature:g} rests on what is usual more than on the {images} "
            "held-out images; probabilities are rough estimates"
        )
        listen(Note(text=text))
    return replace(run, info=info)


def _shifted(run: Run, train: Scores, measured: Sequence[Scores], listen: Listener) -> Shift | None:
    """Compare the test images, the last of `measured`, with those of val, or train for a probe.

    The features of a fine-tuned network are others for the images that it has learnt from.
    """
    known = measured[0] if len(measured) > 1 else train
    if run.info.epoch == 0 and len(known.samples) < LEAST_IMAGES:
        known = train
    shift = None
    if known.split == "val" or run.info.epoch == 0:
        shift = measure_shift(known, measured[-1], run.task, seed=run.info.recipe.seed)
    if shift is None:
        text = "too few val or test images to tell whether these are from the same source"
        listen(Note(text=text, detail=True))
    elif shift.found:
        listen(Note(text=describe_shift(shift), warning=True))
    return shift


def _with(info: ModelInfo, found: Calibration, held_out: str) -> ModelInfo:
    return replace(
        info,
        temperature=found.temperature,
        calibrated=held_out,
        confidence=found.confidence,
        thresholds=found.thresholds,
    )


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


@dataclass(frozen=True)
class _Scorer:
    """Scores images by the final model, from what the run has cached of them where it can."""

    run: Run
    prepared: Prepared
    stores: Stores

    def score(self, split: str, samples: Sequence[Sample]) -> Scores | None:
        """Return the scores of images of a split in the main process; None in the others."""
        run, splits = self.run, self.prepared.splits
        boundary = self.prepared.probe
        if run.info.epoch == 0 and boundary is not None:
            features, logits = self._of_probe(split, samples, boundary)
        else:
            found = self._of_network(samples)
            if found is None:
                return None
            features, logits = found
        if not self.prepared.accelerator.is_main_process:
            return None
        return Scores(
            split=split,
            samples=samples,
            targets=run.task.targets(splits.indices(samples), len(splits.class_names)),
            logits=logits,
            features=features,
        )

    def _of_probe(
        self, split: str, samples: Sequence[Sample], boundary: Boundary
    ) -> tuple[Tensor, Tensor]:
        """Return features and logits of a probe, from the features that it was fitted to."""
        run, engine = self.run, self.run.info.recipe.engine
        part = FrozenPart.of(
            run.model,
            run.backbone,
            boundary,
            self.prepared.plan.recipe.backbone_options,
            # The probe of an earlier version has none.
            "torch" if engine == "auto" else engine,
        )
        transform = eval_transform(run.info.preprocess)
        images = ImageDataset(DecodedImages(samples, transform.prepare, keys=content_keys(samples)))
        features = Features(
            run.model, part, run.info.preprocess, self.prepared.accelerator, self.stores
        )
        store = features.store(transform, [(images, views_of(images))])
        rows = features.of(images, 0, store, f"{split} features")
        (leaf,) = head_leaves(run.model, run.backbone).values()
        weight, bias = leaf.get_parameter("weight"), leaf.get_parameter("bias")
        logits = linear(rows, weight.detach().flatten(1), bias.detach()).cpu()
        together(partial(check_finite, logits))
        return rows.cpu(), logits

    def _of_network(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor] | None:
        """Return features and logits in the main process; each process computes a share."""
        run = self.run
        prepare = eval_transform(run.info.preprocess).prepare
        decoded = DecodedImages(samples, prepare, keys=content_keys(samples))
        if self.prepared.plan.recipe.cache_size:
            # The val images are there if the run has decoded them.
            decoded.store = self.stores.open("images", prepare.about(), np.uint8)
        found = divided_scores(
            run.model,
            run.backbone,
            decoded,
            len(run.class_names),
            lambda text: self.stores.listen(Note(text=text, warning=True)),
        )
        return None if found is None else found[-1]
