"""PyTorch datasets and data loaders; randomness is a function of (seed, epoch, image)."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.data.decoded import DecodedImages
from zoo.errors import DataError

#: (epoch, index). The epoch is part of the index so that worker processes know it.
Index = tuple[int, int]

#: A batch, (rows as stacked by the dataset, targets (N, ...)), or the error raised in its place.
Loaded = tuple[Any, Tensor] | DataError

#: Seconds after which a worker process ends that is told to by a signal, and does not by itself.
_WORKERS_PATIENCE = 20

#: A loader of `Loaded`; iterate over it with `raising`, which raises the errors.
Batches = DataLoader[Loaded]


def derive_seed(seed: int, *context: object) -> int:
    """Derive a 63-bit seed from the run's seed and the purpose that `context` names."""
    text = "/".join(str(part) for part in (seed, *context))
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "big") >> 1


def view_of(epoch: int, views: int | None) -> int:
    """Return the view (from 1) for an epoch (from 1): one of `views` in turn; None: a new one."""
    return epoch if views is None else (epoch - 1) % views + 1


class ImageDataset(Dataset[Any]):  # torch types a loader's batches by its dataset's item type
    """Dataset of (pixels (H, W, C) uint8, target) pairs.

    Args:
        decoded: Decoded images of the samples.
        targets: Targets of the samples, (N, ...); None if they are not needed (zeros).
        augment: Augmentation of a decoded image; None: decoded images are used unchanged. Its
            random draws are a function of (seed, view, sample name).
        seed: Seed of the run.
        views: Number of distinct augmented views per image; None: a new one every epoch.
        repeats: Views of an image in an epoch of training.
    """

    def __init__(
        self,
        decoded: DecodedImages,
        targets: Tensor | None = None,
        augment: Callable[[np.ndarray], np.ndarray] | None = None,
        *,
        seed: int = 0,
        views: int | None = None,
        repeats: int = 1,
    ) -> None:
        self.decoded = decoded
        self.targets = torch.zeros(len(decoded)) if targets is None else targets
        self.augment = augment
        self.seed = seed
        self.views = views
        self.repeats = repeats

    def __len__(self) -> int:
        return len(self.decoded)

    def __getitem__(self, index: Index) -> tuple[np.ndarray, Tensor]:
        _, position = index
        return self._view(index, self.decoded[position]), self.targets[position]

    def batch(self, indices: Sequence[Index]) -> Tensor:
        """Return the pixels (N, C, H, W) of several images, decoding in threads where needed."""
        decoded = self.decoded.many([position for _, position in indices])
        pixels = [self._view(*each) for each in zip(indices, decoded, strict=True)]
        return self.stack(pixels)

    @staticmethod
    def stack(pixels: Sequence[np.ndarray]) -> Tensor:
        """Stack images into (N, C, H, W) uint8, channels-last in memory."""
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)

    def _view(self, index: Index, image: np.ndarray) -> np.ndarray:
        if self.augment is None:
            return image
        epoch, position = index
        view, name = view_of(epoch, self.views), self.decoded.samples[position].name
        with _seeded(derive_seed(self.seed, "augment", view, name)):
            return self.augment(image)


class Rows(Protocol):
    """A dataset of (row, target) pairs by `Index`, with a method that stacks rows into a batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Index) -> tuple[Any, Tensor]: ...

    @staticmethod
    def stack(rows: Sequence[Any]) -> Any:
        """Stack rows into a batch: a tensor or a named tuple of tensors."""


class EpochSampler(Sampler[Index]):
    """Sampler of (epoch, index) pairs, in order or shuffled by (seed, epoch).

    Args:
        indices: Indices of the images, as many as pairs in an epoch.
        seed: Seed of the order; None: in order.
        repeats: How often each image of an epoch follows itself, in views of their own; an epoch
            then consists of the first images of the shuffled order.
        pairs: Number of pairs in an epoch. Default: as many as indices.
    """

    def __init__(
        self,
        indices: Sequence[int],
        *,
        seed: int | None = None,
        repeats: int = 1,
        pairs: int | None = None,
    ) -> None:
        self.indices = indices
        self.seed = seed
        self.repeats = repeats
        self.pairs = len(indices) if pairs is None else pairs
        self.epoch = 0

    def __len__(self) -> int:
        return self.pairs

    def __iter__(self) -> Iterator[Index]:
        order: Iterable[int] = range(len(self.indices))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
            # Numbers are made on access: a list would take 40 bytes for each.
            order = map(int, torch.randperm(len(self.indices), generator=generator).numpy())
        # An epoch of views takes the place of `repeats` epochs, so that all views differ.
        first = self.epoch if self.repeats == 1 else (self.epoch - 1) * self.repeats + 1
        views = range(first, first + self.repeats)
        pairs = ((view, self.indices[n]) for n in order for view in views)
        return itertools.islice(pairs, self.pairs)


def train_loader(
    dataset: Rows, *, batch_size: int, seed: int, workers: int, repeats: int = 1
) -> tuple[Batches, EpochSampler]:
    """Return a loader of shuffled batches and its sampler; set the sampler's `epoch` each epoch.

    Each image of an epoch is repeated `repeats` times, in successive views (Hoffer et al., 2020).
    Iterate with `raising`. A last batch of one image, too small for batch statistics, is left out
    if there are others. `zoo.data.transforms.to_input` turns pixels into model input.
    """
    count = len(dataset)
    pairs = _without_rest(count, batch_size)
    sampler = EpochSampler(range(count), seed=seed, repeats=repeats, pairs=pairs)
    return _loader(dataset, sampler, batch_size, workers), sampler


def steps_of_epoch(count: int, batch_size: int, processes: int) -> int:
    """Return the number of batches that each process has of an epoch of `train_loader`."""
    batches = math.ceil(_without_rest(count, batch_size) / batch_size)
    return math.ceil(batches / processes)


def _without_rest(count: int, batch_size: int) -> int:
    return count - (count > batch_size and count % batch_size == 1)


def eval_loader(
    dataset: Rows, *, batch_size: int, workers: int = 0, positions: Sequence[int] | None = None
) -> Batches:
    """Return a loader of batches in sample order; iterate with `raising`.

    Args:
        dataset: The dataset.
        batch_size: Images per batch.
        workers: Number of worker processes.
        positions: Positions of the images to load, such as from `share_of`; None: all.
    """
    wanted = range(len(dataset)) if positions is None else positions
    return _loader(dataset, EpochSampler(wanted), batch_size, workers)


def share_of(count: int, batch_size: int, rank: int, processes: int) -> list[int]:
    """Return the positions of the images that a process evaluates, out of `count`.

    Whole batches are dealt out in turn, so that each is the one that a single process would compute
    and rounds as it does there.
    """
    return [n for n in range(count) if n // batch_size % processes == rank]


def _loader(dataset: Rows, sampler: EpochSampler, batch_size: int, workers: int) -> Batches:
    return DataLoader(
        _ReturningErrors(dataset),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=partial(_collate, stack=dataset.stack),
        # Without it, creating an iterator draws from the global generator.
        generator=torch.Generator(),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_outlive_signals if workers else None,
    )


def _outlive_signals(worker: int) -> None:
    """Let a worker process go on after a signal to all processes of the run.

    Such a run still needs batches to end its step, and if a signal ends a worker, torch raises a
    RuntimeError between any two instructions of the main process. The main process ends its workers
    otherwise; one that was sent a signal ends after a while in any case.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # Not on Windows, whose processes get no such signal.
        signal.signal(signal.SIGTERM, lambda signum, frame: signal.alarm(_WORKERS_PATIENCE))


class _ReturningErrors(Dataset[Any]):
    """Dataset that returns a DataError in place of the row instead of raising it.

    torch re-raises an exception of a worker process with the traceback in its message, and then
    waits up to five seconds for each worker.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __getitem__(self, index: Index) -> tuple[Any, Tensor] | DataError:
        try:
            return self.rows[index]
        except DataError as error:
            return error


def raising(batches: Iterable[Loaded]) -> Iterator[tuple[Any, Tensor]]:
    """Yield the batches of a loader, and raise a DataError that takes the place of one.

    A function, because wrappers such as accelerate replace a loader's class by a plain DataLoader.
    """
    for batch in batches:
        if isinstance(batch, DataError):
            try:
                raise batch
            finally:
                del batch  # Breaks a reference cycle that would keep the workers alive.
        yield batch


def _collate(
    batch: list[tuple[Any, Tensor] | DataError], stack: Callable[[Sequence[Any]], Any]
) -> Loaded:
    """Collate into rows and targets (N, ...); return the first error if there is one."""
    for row in batch:
        if isinstance(row, DataError):
            return row
    rows, targets = zip(*batch, strict=True)
    return stack(rows), torch.stack(targets)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator, and restore its state on exit.

    `torch.random.fork_rng` and `torch.manual_seed` also handle devices, and take longer than
    flipping an image.
    """
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
