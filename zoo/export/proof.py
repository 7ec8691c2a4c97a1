"""Compare an exported model with its run, image by image."""

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

#: Random images, where there are no others.
_RANDOM = 64

#: Calls that a latency is the median of, at most, and seconds that they take for all, about.
_CALLS, _SECONDS = 100, 2.0


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """An exported file, and how it compares with the run in torch.

    Attributes:
        format: Name of the format.
        file: Path of the file.
        bytes: Its size.
        source: Which images were compared, in words.
        images: How many.
        largest_difference: Of two logits.
        agreement: Share of the images, 0..1, whose predicted labels are the same; multi-label: all
            of them.
        accuracy: Share predicted correctly by the file; None for random images.
        run_accuracy: The same of the run.
        latency_ms: Median milliseconds of one image through the file's runtime on this machine.
        run_latency_ms: The same of the run in torch.
        device: Where the run's model was.
        notes: What was decided, a line each.
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
    """What is compared: batches of pixels (N, 3, H, W) uint8, their targets if they are known."""

    source: str
    batches: Iterable[Loaded]
    targets: Tensor | None
    notes: tuple[str, ...] = ()


def images_for(run: Run, data: Path | None) -> Images:
    """The images that `run.evaluate(data)` measures; random ones if the run's are not there.

    Raises:
        DataError: `data` is given and can't be used.
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
    bases = DecodedImages(splits.val, eval_transform(run.info.preprocess).prepare)
    return Images(
        source=source,
        batches=eval_batches(bases),
        targets=run.task.targets(splits.indices(splits.val), len(run.class_names)),
        notes=tuple(describe(splits.issues)),
    )


def _random_batches(run: Run) -> list[Loaded]:
    """Smooth random colours; noise would look the same to most models."""
    preprocess = run.info.preprocess
    coarse = torch.rand(_RANDOM, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = interpolate(255 * coarse, preprocess.height_width, mode="bilinear").to(torch.uint8)
    size = eval_batch_size(preprocess)
    return [(images[n : n + size], torch.empty(0)) for n in range(0, _RANDOM, size)]


def compare(
    run: Run, compute: Compute, images: Images, *, exported: tuple[str, str, int]
) -> ExportReport:
    """Run images through an exported file and through the run.

    Args:
        run: The run.
        compute: The file, as `load_exported` gives it.
        images: What to compare on.
        exported: Format, path and size of the file.

    Raises:
        PluginError: The file's runtime fails.
        DataError: An image can't be read any more.
    """
    preprocess, task = run.info.preprocess, run.task

    def expected_of(pixels: Tensor) -> Tensor:
        return predict_logits(run.model, [(pixels, torch.empty(0))], preprocess)

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
    """Median milliseconds of each call; they take turns, so that a busy moment falls on all."""
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
