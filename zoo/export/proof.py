"""Compare an exported model with its run: agreement, accuracy and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from zoo.data.dataset import Loaded, raising
from zoo.data.decoded import DecodedImages
from zoo.data.issue import describe
from zoo.data.transforms import eval_transform
from zoo.errors import DataError
from zoo.export.runtime import Compute
from zoo.runs.evaluate import images_of
from zoo.runs.inference import eval_batch_size, eval_batches, predict_logits
from zoo.runs.read import Run

#: Number of random images to compare on if there are no others.
_RANDOM = 64

#: Maximum number of calls for a median latency, and approximate seconds for all measurements.
_CALLS, _SECONDS = 100, 2.0


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """Comparison of an exported file with the run in torch.

    Attributes:
        format: Name of the format.
        file: Path of the file.
        bytes: Size of the file, in bytes.
        source: Description of the compared images.
        images: Number of compared images.
        largest_difference: Largest absolute difference of two corresponding calibrated logits.
        agreement: Fraction of images, 0..1, with the same predicted labels; multi-label: all of
            the labels.
        accuracy: Accuracy of the file, 0..1; None for random images.
        run_accuracy: Accuracy of the run, 0..1; None for random images.
        latency_ms: Median latency of one image in the file's runtime on this machine, in ms.
        run_latency_ms: Median latency of one image in the run's model in torch, in ms.
        device: Device type of the run's model.
        notes: Notes on the comparison, one line each.
    """

    format: str
    file: str
    bytes: int
    source: str
    images: int
    largest_difference: float
    agreement: float
    accuracy: float | None
    run_accuracy: float | None
    latency_ms: float
    run_latency_ms: float
    device: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images to compare on: batches of pixels (N, C, H, W) uint8, and targets if known."""

    source: str
    batches: Iterable[Loaded]
    targets: Tensor | None
    notes: tuple[str, ...] = ()


def images_for(run: Run, data: Path | None) -> Images:
    """Return the images that `run.evaluate(data)` uses, or random ones if the run's are missing.

    Raises:
        DataError: If `data` is given and can't be used.
    """
    try:
        splits, source = images_of(run.info, data)
    except DataError as error:
        if data is not None:
            raise
        note = (
            f"compared on random images only, which prove less: {error}; name the run's data, or "
            f"other labelled images, to compare on them"
        )
        return Images(
            source="random images", batches=_random_batches(run), targets=None, notes=(note,)
        )
    decoded = DecodedImages(splits.val, eval_transform(run.info.preprocess).prepare)
    return Images(
        source=source,
        batches=eval_batches(decoded),
        targets=run.task.targets(splits.indices(splits.val), len(run.class_names)),
        notes=tuple(describe(splits.issues)),
    )


def _random_batches(run: Run) -> list[Loaded]:
    """Generate images of smooth random colours; most models give one output for all noise."""
    preprocess = run.info.preprocess
    noise = torch.Generator().manual_seed(0)
    coarse = torch.rand(_RANDOM, preprocess.channels, 8, 8, generator=noise)
    images = interpolate(255 * coarse, preprocess.height_width, mode="bilinear").to(torch.uint8)
    size = eval_batch_size(preprocess)
    return [(images[n : n + size], torch.empty(0)) for n in range(0, _RANDOM, size)]


def compare(
    run: Run, compute: Compute, images: Images, *, exported: tuple[str, str, int]
) -> ExportReport:
    """Run images through an exported file and through the run.

    Args:
        run: The run.
        compute: The exported file, loaded by `load_exported`.
        images: The images to compare on.
        exported: Format, path and size in bytes of the file.

    Raises:
        PluginError: If the file's runtime fails.
        DataError: If an image can no longer be read.
    """
    preprocess, task = run.info.preprocess, run.task

    def expected_of(pixels: Tensor) -> Tensor:
        logits = predict_logits(run.model, [(pixels, torch.empty(0))], preprocess)
        return logits / run.info.temperature

    found, expected = [], []
    for pixels, _ in raising(images.batches):
        expected.append(expected_of(pixels))
        found.append(torch.from_numpy(compute(_array(pixels)).astype(np.float32)))
    logits, reference = torch.cat(found), torch.cat(expected)

    def accuracy(of: Tensor) -> float | None:
        return None if images.targets is None else _share(task.correct(of, images.targets))

    one = pixels[:1]
    latency, run_latency = _latencies(lambda: compute(_array(one)), lambda: expected_of(one))
    kind, path, size = exported
    return ExportReport(
        format=kind,
        file=path,
        bytes=size,
        source=images.source,
        images=len(logits),
        largest_difference=float((logits - reference).abs().max()),
        agreement=_share(task.correct(logits, task.decide(reference))),
        accuracy=accuracy(logits),
        run_accuracy=accuracy(reference),
        latency_ms=latency,
        run_latency_ms=run_latency,
        device=next(run.model.parameters()).device.type,
        notes=images.notes,
    )


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
