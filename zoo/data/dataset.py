"""Samples as torch data sets and loaders; randomness is a function of (seed, epoch, image)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.data.bases import Bases

#: (epoch, index): the epoch travels with the index, so that workers need not be told of it.
Index = tuple[int, int]

#: Batches of (pixels (N, 3, H, W) uint8, labels (N,) int64).
Batches = DataLoader[tuple[Tensor, Tensor]]


def derive_seed(seed: int, *context: object) -> int:
    """A 63-bit seed from the run's seed and what it is for."""
    text = "/".join(str(part) for part in (seed, *context))
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "big") >> 1


def view_of(epoch: int, views: int | None) -> int:
    """Which view of an image an epoch (from 1) sees: one of `views` in turn, or each its own."""
    return epoch if views is None else (epoch - 1) % views + 1


class ImageDataset(Dataset[Any]):  # torch has a loader yield what its data set holds
    """Samples as (pixels (H, W, 3) uint8, label) pairs.

    Args:
        bases: Of the samples.
        augment: Base to pixels; None: the base is what the model gets. What it draws is a function
            of (seed, view, name of the sample).
        seed: The run's.
        views: How many views of an image there are; None: as many as epochs.
    """

    def __init__(
        self,
        bases: Bases,
        augment: Callable[[np.ndarray], np.ndarray] | None = None,
        *,
        seed: int = 0,
        views: int | None = None,
    ) -> None:
        self.bases = bases
        self.augment = augment
        self.seed = seed
        self.views = views

    def __len__(self) -> int:
        return len(self.bases)

    def __getitem__(self, index: Index) -> tuple[np.ndarray, int]:
        epoch, position = index
        sample, pixels = self.bases.samples[position], self.bases[position]
        if self.augment is not None:
            view = view_of(epoch, self.views)
            with _seeded(derive_seed(self.seed, "augment", view, sample.name)):
                pixels = self.augment(pixels)
        return pixels, sample.label


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
    bases: Bases,
    augment: Callable[[np.ndarray], np.ndarray] | None,
    *,
    batch_size: int,
    seed: int,
    workers: int,
    views: int | None = None,
) -> tuple[Batches, EpochSampler]:
    """Shuffled batches, once the sampler's `epoch` is set.

    A last batch of a single image joins no batch statistics and is left out, if there are others.
    `zoo.data.transforms.to_input` makes pixels a model's input.
    """
    sampler = EpochSampler(len(bases), seed=seed)
    loader = DataLoader(
        ImageDataset(bases, augment, seed=seed, views=views),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=_stack,
        # Else making an iterator draws from the global generator.
        generator=torch.Generator(),
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=len(bases) > batch_size and len(bases) % batch_size == 1,
        pin_memory=torch.cuda.is_available(),
    )
    return loader, sampler


def eval_loader(bases: Bases, *, batch_size: int, workers: int = 0) -> Batches:
    """Batches of bases in the samples' own order."""
    return DataLoader(
        ImageDataset(bases),
        batch_size=batch_size,
        sampler=EpochSampler(len(bases)),
        collate_fn=_stack,
        generator=torch.Generator(),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _stack(batch: list[tuple[np.ndarray, int]]) -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, H, W) uint8, channels-last in memory, and labels (N,) int64."""
    pixels, labels = zip(*batch, strict=True)
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.tensor(labels)


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
