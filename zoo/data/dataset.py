"""Samples as torch data sets and loaders; randomness is a function of (seed, epoch, image)."""

from __future__ import annotations

import hashlib
import os
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

#: (epoch, index): the epoch travels with the index, so that workers need not be told of it.
Index = tuple[int, int]

#: A batch: (rows, as their data set stacks them; targets (N, ...)); or the error in its place.
Loaded = tuple[Any, Tensor] | DataError

#: Such batches: `raising` gives those that are none.
Batches = DataLoader[Loaded]


def derive_seed(seed: int, *context: object) -> int:
    """A 63-bit seed from the run's seed and what it is for."""
    text = "/".join(str(part) for part in (seed, *context))
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "big") >> 1


def view_of(epoch: int, views: int | None) -> int:
    """Which view of an image an epoch (from 1) sees: one of `views` in turn, or each its own."""
    return epoch if views is None else (epoch - 1) % views + 1


class ImageDataset(Dataset[Any]):  # torch has a loader yield what its data set holds
    """Samples as (pixels (H, W, 3) uint8, target) pairs.

    Args:
        bases: Of the samples.
        targets: (N, ...) of the samples; None where nobody asks for them.
        augment: Base to pixels; None: the base is what the model gets. What it draws is a function
            of (seed, view, name of the sample).
        seed: The run's.
        views: How many views of an image there are; None: as many as epochs.
    """

    def __init__(
        self,
        bases: DecodedImages,
        targets: Tensor | None = None,
        augment: Callable[[np.ndarray], np.ndarray] | None = None,
        *,
        seed: int = 0,
        views: int | None = None,
    ) -> None:
        self.bases = bases
        self.targets = torch.zeros(len(bases)) if targets is None else targets
        self.augment = augment
        self.seed = seed
        self.views = views

    def __len__(self) -> int:
        return len(self.bases)

    def __getitem__(self, index: Index) -> tuple[np.ndarray, Tensor]:
        _, position = index
        return self._view(index, self.bases[position]), self.targets[position]

    def batch(self, indices: Sequence[Index]) -> Tensor:
        """The pixels (N, 3, H, W) of several at once; what must be decoded is, in threads."""
        bases = self.bases.many([position for _, position in indices])
        pixels = [self._view(*each) for each in zip(indices, bases, strict=True)]
        return self.stack(pixels)

    @staticmethod
    def stack(pixels: Sequence[np.ndarray]) -> Tensor:
        """Pixels (N, 3, H, W) uint8, channels-last in memory."""
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)

    def _view(self, index: Index, base: np.ndarray) -> np.ndarray:
        if self.augment is None:
            return base
        epoch, position = index
        view, name = view_of(epoch, self.views), self.bases.samples[position].name
        with _seeded(derive_seed(self.seed, "augment", view, name)):
            return self.augment(base)


class Rows(Protocol):
    """A data set of (row, target) pairs by `Index`, and how rows become a batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Index) -> tuple[Any, Tensor]: ...

    @staticmethod
    def stack(rows: Sequence[Any]) -> Any:
        """A batch: a tensor, or a named tuple of some."""


class EpochSampler(Sampler[Index]):
    """(epoch, index) pairs: in order, or in an order drawn from (seed, epoch)."""

    def __init__(self, length: int, *, seed: int | None = None) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Index]:
        order = list(range(self.length))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
            order = torch.randperm(self.length, generator=generator).tolist()
        return ((self.epoch, index) for index in order)


def train_loader(
    dataset: Rows, *, batch_size: int, seed: int, workers: int
) -> tuple[Batches, EpochSampler]:
    """Shuffled batches, for `raising`, once the sampler's `epoch` is set.

    A last batch of a single image joins no batch statistics and is left out, if there are others.
    `zoo.data.transforms.to_input` makes pixels a model's input.
    """
    count = len(dataset)
    sampler = EpochSampler(count, seed=seed)
    drop_last = count > batch_size and count % batch_size == 1
    return _loader(dataset, sampler, batch_size, workers, drop_last=drop_last), sampler


def eval_loader(dataset: Rows, *, batch_size: int, workers: int = 0) -> Batches:
    """Batches in the samples' own order, for `raising`."""
    return _loader(dataset, EpochSampler(len(dataset)), batch_size, workers)


def _loader(
    dataset: Rows, sampler: EpochSampler, batch_size: int, workers: int, *, drop_last: bool = False
) -> Batches:
    return DataLoader(
        _Telling(dataset),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=partial(_collate, stack=dataset.stack),
        # Else making an iterator draws from the global generator.
        generator=torch.Generator(),
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
    )


class _Telling(Dataset[Any]):
    """Rows, or the DataError that is raised in their place.

    What a worker process raises is raised anew by torch, with a traceback put into its message, and
    torch then waits for each worker for five seconds.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __getitem__(self, index: Index) -> tuple[Any, Tensor] | DataError:
        try:
            return self.rows[index]
        except DataError as error:
            return error


def raising(batches: Iterable[Loaded]) -> Iterator[tuple[Any, Tensor]]:
    """The batches of a loader, whose DataErrors are raised.

    What wraps a loader (accelerate does) makes a plain one of it, so its user has to look.
    """
    for batch in batches:
        if isinstance(batch, DataError):
            try:
                raise batch
            finally:
                del batch  # Else it holds itself, and with it the workers, until they are killed.
        yield batch


def _collate(
    batch: list[tuple[Any, Tensor] | DataError], stack: Callable[[Sequence[Any]], Any]
) -> Loaded:
    """Rows and targets (N, ...); or the first error among them."""
    for row in batch:
        if isinstance(row, DataError):
            return row
    rows, targets = zip(*batch, strict=True)
    return stack(rows), torch.stack(targets)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator, and leave it as it was.

    `torch.random.fork_rng` and `torch.manual_seed` do the same for devices too, and take longer
    than a flip.
    """
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
