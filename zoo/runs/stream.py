"""Features, logits and predictions of any number of images, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.data.dataset import ImageDataset
from zoo.data.transforms import to_input
from zoo.errors import DataError
from zoo.machine.device import choose_precision, place, place_images
from zoo.machine.memory import in_parts
from zoo.models.fuse import fuse_batch_norms
from zoo.runs.inference import check_finite, eval_batch_size, warn
from zoo.runs.scores import FeaturesAndLogits
from zoo.runs.tta import Tta, averaged, views_of

if TYPE_CHECKING:
    from zoo.runs.read import Asked, Prediction, Run

Precision = Literal["auto", "fp32", "bf16", "fp16"]

#: Data types of mixed precision.
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

#: Batches on a GPU have so many times the images of those on a CPU, so that launching its kernels
#: takes less of the time.
_ON_GPU = 4


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image without a prediction.

    Attributes:
        path: Path of the image file; None for an image given in memory.
        error: Why it can't be read.
    """

    path: Path | None
    error: str


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What computes features and logits.

    Attributes:
        name: `torch`, or the name of another runtime.
        compute: Pixels (N, C, H, W) uint8 to features (N, F) and logits (N, classes), before the
            temperature; float32 on the CPU.
        batch_size: Images per call, unless set otherwise.
    """

    name: str
    compute: Callable[[Tensor], tuple[Tensor, Tensor]]
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Results for consecutive images.

    Attributes:
        keys: What was given with each image.
        errors: Why an image can't be read, by its position in `keys`.
        features: (n, F) float32 of the other images, in order.
        logits: (n, classes) float32 of these.
    """

    keys: tuple[Any, ...]
    errors: dict[int, DataError]
    features: Tensor
    logits: Tensor


def torch_engine(
    run: Run,
    *,
    precision: Precision = "fp32",
    fold: bool = True,
    say: Callable[[str], None] = warn,
) -> Engine:
    """Return the engine that computes with the run's own network, on its device.

    Args:
        run: The run.
        precision: `fp32`, `bf16`, `fp16`, or `auto`: bf16 on GPUs that support it, else fp32.
        fold: Fold batch norms into convolutions, which pays for more than some batches.
        say: Called with a warning if fewer images are computed at a time for lack of memory.

    Raises:
        TrainingError: The device does not support the precision.
    """
    device, preprocess = next(run.model.parameters()).device, run.info.preprocess
    kind = _TYPES.get(choose_precision(precision, device))
    classes, most = len(run.class_names), 0

    @cache
    def network() -> FeaturesAndLogits:
        model = run.model.eval()
        if fold:
            noise = torch.Generator().manual_seed(0)
            example = torch.randn(2, preprocess.channels, *preprocess.height_width, generator=noise)
            model = place(fuse_batch_norms(model, place_images(example, device)).model, device)
        return FeaturesAndLogits(model, run.backbone)

    def part(pixels: Tensor, _: int) -> Tensor:
        with torch.autocast(device.type, dtype=kind, enabled=kind is not None):
            both: Tensor = network()(to_input(pixels, preprocess, device))
        return both.cpu()

    @torch.inference_mode()
    def compute(pixels: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal most
        given = min(most or len(pixels), len(pixels))
        rows, used = in_parts(part, pixels, given, what="logits", device=device, say=say)
        if used < given:
            most = used
        return rows[:, :-classes], rows[:, -classes:]

    size = eval_batch_size(preprocess) * (1 if device.type == "cpu" else _ON_GPU)
    return Engine(name="torch", compute=compute, batch_size=size)


def forward(
    run: Run,
    images: Iterable[tuple[Any, Any]],
    engine: Engine,
    *,
    workers: int | None = None,
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """Compute features and logits batch by batch, while threads decode the next images.

    Args:
        run: The run, whose preprocessing applies.
        images: (key, image) pairs, where an image is as in `Run.predict`. At most two batches of
            them are taken ahead.
        engine: What computes.
        workers: Number of threads that decode; default: the number of cores.
        batch_size: Images per forward pass; default: that of the engine.

    Raises:
        DataError: A number is out of its range.
        RunError: A logit is NaN or infinite.
        TrainingError: Memory is too small for one image.
    """
    size, threads = batch_size or engine.batch_size, workers or cores()
    if size < 1 or threads < 1:
        raise DataError(f"batch_size and workers must be at least 1, got {size} and {threads}")
    decoded = _decoded_ahead(images, partial(_prepared, run), workers=threads, ahead=2 * size)
    while batch := tuple(islice(decoded, size)):
        made = [image for _, image in batch if not isinstance(image, DataError)]
        features, logits = torch.empty(0, 0), torch.empty(0, len(run.class_names))
        if made:
            features, logits = engine.compute(ImageDataset.stack(made))
            check_finite(logits)
        yield Batch(
            keys=tuple(key for key, _ in batch),
            errors={n: each for n, (_, each) in enumerate(batch) if isinstance(each, DataError)},
            features=features,
            logits=logits,
        )


def predictions(
    run: Run,
    images: Iterable[tuple[Path | None, Any]],
    asked: Asked,
    engine: Engine,
    *,
    workers: int | None = None,
    batch_size: int | None = None,
) -> Iterator[Prediction | Unreadable]:
    """Classify images; the keys are their paths. Arguments and errors are those of `forward`."""
    engine = _augmented(engine, asked.tta)
    for batch in forward(run, images, engine, workers=workers, batch_size=batch_size):
        read = [path for n, path in enumerate(batch.keys) if n not in batch.errors]
        made = iter(run.predictions_of(batch.features, batch.logits, read, asked) if read else ())
        for n, path in enumerate(batch.keys):
            error = batch.errors.get(n)
            yield next(made) if error is None else Unreadable(path=path, error=str(error))


def _augmented(engine: Engine, tta: Tta | None) -> Engine:
    """Return an engine whose features and logits are averaged over the views of each image."""
    if tta is None:
        return engine

    def compute(pixels: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = zip(*map(engine.compute, views_of(pixels, tta)), strict=True)
        return averaged(features), averaged(logits)

    return replace(engine, compute=compute)


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _prepared(run: Run, image: Any) -> np.ndarray | DataError:
    try:
        return run.prepare(image)
    except DataError as error:
        return error


def _decoded_ahead(
    images: Iterable[tuple[Any, Any]],
    prepare: Callable[[Any], np.ndarray | DataError],
    *,
    workers: int,
    ahead: int,
) -> Iterator[tuple[Any, np.ndarray | DataError]]:
    """Yield each key with its prepared image, in order; at most `ahead` are waiting."""
    waiting: deque[tuple[Any, Future[np.ndarray | DataError]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for key, image in images:
            # A file may be closed or moved on by the time that a thread would read it.
            given = image.read() if hasattr(image, "read") and hasattr(image, "seek") else image
            waiting.append((key, pool.submit(prepare, given)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
