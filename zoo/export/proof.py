"""Compare an exported model with its run: agreement, accuracy and speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from zoo.backbone import Preprocess
from zoo.data.dataset import ImageDataset, raising
from zoo.data.decoded import DecodedImages
from zoo.data.image import image_from_bytes
from zoo.data.issue import describe
from zoo.data.sample import Sample
from zoo.data.transforms import eval_transform
from zoo.engines.runtime import Compute
from zoo.errors import DataError
from zoo.export.options import ExportOptions
from zoo.runs.evaluate import Reading, images_of
from zoo.runs.inference import eval_batch_size, eval_batches, predict_logits
from zoo.runs.read import Run
from zoo.tasks.paired import wilson_interval

#: Number of random images to compare on if there are no others.
_RANDOM = 64

#: Number of images of the run's own sizes per batch, to measure images/s with.
_WHOLE = 8

#: Maximum number of train images for the calibration of quantised models.
_CALIBRATION = 128

#: Maximum number of calls for a median latency, and approximate seconds for all measurements.
_CALLS, _SECONDS = 100, 2.0


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """Comparison of an exported file with the run in torch.

    Attributes:
        format: Name of the format.
        file: Path of the file.
        bytes: Size of the file, in bytes; with that of its companions.
        source: Description of the compared images.
        images: Number of compared images.
        largest_difference: Largest absolute difference of two corresponding calibrated logits, or
            probabilities.
        agreement: Fraction of images, 0..1, with the same predicted labels; multi-label: all of
            the labels.
        accuracy: Accuracy of the file, 0..1; None for random images.
        accuracy_interval: Its 95 % confidence interval (Wilson, 1927).
        run_accuracy: Accuracy of the run, 0..1; None for random images.
        latency_ms: Median latency of one image in the file's runtime on this machine, in ms.
        run_latency_ms: Median latency of one image in the run's model in torch, in ms.
        batch_size: Number of images in the batches for the following two.
        images_per_second: Images per second in the file's runtime, in batches.
        run_images_per_second: Images per second in the run's model in torch, in batches.
        device: Device type of the run's model.
        notes: Notes on the comparison, one line each.
        options: What was asked of the file, by name.
    """

    format: str
    file: str
    bytes: int
    source: str
    images: int
    largest_difference: float
    agreement: float
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    run_accuracy: float | None
    latency_ms: float
    run_latency_ms: float
    batch_size: int
    images_per_second: float
    run_images_per_second: float
    device: str
    notes: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images to compare on, as the file takes them, and targets if known.

    Batches are (N, C, H, W) uint8, or, with `with_resize`, single images (1, H, W, C) uint8.
    """

    source: str
    batches: Iterable[np.ndarray]
    targets: Tensor | None
    notes: tuple[str, ...] = ()


def images_for(
    run: Run, data: Path | None, *, with_resize: bool = False, allow_network: bool = False
) -> Images:
    """Return the images that `run.evaluate(data)` uses, or random ones if the run's are missing.

    Raises:
        DataError: If `data` is given and can't be used.
    """
    try:
        splits, source = images_of(run.info, data, Reading(allow_network=allow_network))
    except DataError as error:
        if data is not None:
            raise
        note = (
            f"compared on random images only, which prove less: {error}; name the run's data, or "
            f"other labelled images, to compare on them"
        )
        return Images(
            source="random images",
            batches=_random_batches(run, with_resize),
            targets=None,
            notes=(note,),
        )
    return Images(
        source=source,
        batches=_batches(run, splits.val, with_resize),
        targets=run.task.targets(splits.indices(splits.val), len(run.class_names)),
        notes=tuple(describe(splits.issues)),
    )


def calibration_images(
    run: Run, data: Path | None, *, with_resize: bool = False, allow_network: bool = False
) -> Iterable[np.ndarray]:
    """Return batches of train images, evenly spread over those of the run, or of `data`.

    Raises:
        DataError: If there are none.
    """
    try:
        splits, _ = images_of(run.info, data, Reading(split="train", allow_network=allow_network))
    except DataError as error:
        raise DataError(
            f"8-bit quantisation is calibrated on train images: {error}",
            hint="name labelled images with train and val folders by `data`",
        ) from error
    samples = splits.val
    count = min(_CALIBRATION, len(samples))
    # Samples are sorted by class.
    spread = [samples[n * len(samples) // count] for n in range(count)]
    return _batches(run, spread, with_resize)


def _batches(run: Run, samples: Sequence[Sample], with_resize: bool) -> Iterator[np.ndarray]:
    if with_resize:
        return (_whole(run, sample) for sample in samples)
    decoded = DecodedImages(samples, eval_transform(run.info.preprocess).prepare)
    return (_array(pixels) for pixels, _ in raising(eval_batches(decoded)))


def _whole(run: Run, sample: Sample) -> np.ndarray:
    """Return an image as `run.predict` decodes it, (1, H, W, C) uint8."""
    preprocess = run.info.preprocess
    image = image_from_bytes(
        sample.read(),
        sample.where,
        value_range=preprocess.value_range,
        channels=preprocess.channels,
    )
    pixels = np.array(image)  # torch warns of arrays that are read-only
    return pixels.reshape(1, image.height, image.width, preprocess.channels)


def _random_batches(run: Run, with_resize: bool) -> list[np.ndarray]:
    """Generate images of smooth random colours; most models give one output for all noise."""
    preprocess = run.info.preprocess
    noise = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(_RANDOM, preprocess.channels, 8, 8, generator=noise)
    height, width = preprocess.height_width
    if with_resize:
        sizes = [(height + 3 * n, width + 2 * n) for n in range(_RANDOM)]
        images = [
            interpolate(one[None], size, mode="bilinear").permute(0, 2, 3, 1)
            for one, size in zip(coarse, sizes, strict=True)
        ]
        return [_array(image.to(torch.uint8)) for image in images]
    pixels = interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)
    return [_array(batch) for batch in torch.split(pixels, eval_batch_size(preprocess))]


def compare(
    run: Run,
    compute: Compute,
    images: Images,
    options: ExportOptions,
    *,
    exported: tuple[str, str, int],
) -> ExportReport:
    """Run images through an exported file and through the run.

    Raises:
        PluginError: If the file's runtime fails.
        DataError: If an image can no longer be read.
    """
    preprocess, task = run.info.preprocess, run.task

    def logits_of(given: np.ndarray) -> Tensor:
        pixels = (
            ImageDataset.stack([run.prepare(image) for image in given])
            if options.with_resize
            else torch.from_numpy(given)
        )
        logits = predict_logits(run.model, [(pixels, torch.empty(0))], preprocess)
        return logits / run.info.temperature

    found, expected = [], []
    for batch in images.batches:
        expected.append(logits_of(batch))
        found.append(torch.from_numpy(compute(batch).astype(np.float32)))
    outputs, reference = torch.cat(found), torch.cat(expected)
    logits = _as_logits(outputs, run) if options.probabilities else outputs
    targets = images.targets
    right = None if targets is None else int(task.correct(logits, targets).sum())
    one = batch[:1]
    latency, run_latency = _latencies(lambda: compute(one), lambda: logits_of(one))
    many = batch.repeat(_WHOLE, axis=0) if options.with_resize else _filled(batch, preprocess)
    duration, run_duration = _latencies(lambda: compute(many), lambda: logits_of(many))
    kind, path, size = exported
    same = task.probabilities(reference) if options.probabilities else reference
    return ExportReport(
        format=kind,
        file=path,
        bytes=size,
        source=images.source,
        images=len(logits),
        largest_difference=float((outputs - same).abs().max()),
        agreement=_share(task.correct(logits, task.decide(reference))),
        accuracy=None if right is None else right / len(logits),
        accuracy_interval=None if right is None else wilson_interval(right, len(logits)),
        run_accuracy=None if targets is None else _share(task.correct(reference, targets)),
        latency_ms=latency,
        run_latency_ms=run_latency,
        batch_size=len(many),
        images_per_second=1000 * len(many) / duration,
        run_images_per_second=1000 * len(many) / run_duration,
        device=next(run.model.parameters()).device.type,
        notes=images.notes,
        options={
            **options.of_format(),
            **({"probabilities": True} if options.probabilities else {}),
        },
    )


def _as_logits(probabilities: Tensor, run: Run) -> Tensor:
    """Return logits with these probabilities, which decide for the same labels."""
    if not run.task.exclusive:
        return probabilities.logit(eps=1e-7)
    return probabilities.clamp_min(1e-30).log()


def _filled(batch: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Return a batch of the usual size, by repeating images."""
    return np.resize(batch, (eval_batch_size(preprocess), *batch.shape[1:]))


def _array(pixels: Tensor) -> np.ndarray:
    return np.ascontiguousarray(pixels.numpy())


def _share(which: Tensor) -> float:
    return float(which.double().mean())


def _latencies(*calls: Callable[[], object]) -> list[float]:
    """Measure the median ms of each call; calls alternate, so that system load affects all."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + _SECONDS
    while not times[0] or (len(times[0]) < _CALLS and time.perf_counter() < end):
        for call, spent in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            spent.append(time.perf_counter() - started)
    return [1000 * statistics.median(spent) for spent in times]
