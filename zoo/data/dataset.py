"""Samples as torch data sets and loaders; randomness is a function of (seed, epoch, image)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.data.image import read_image, to_rgb
from zoo.data.split import Sample
from zoo.data.transforms import Transform

#: (epoch, index): the epoch travels with the index, so that workers need not be told of it.
Index = tuple[int, int]

#: Batches of (images (N, 3, H, W) float32, labels (N,) int64).
Batches = DataLoader[tuple[Tensor, Tensor]]


def derive_seed(seed: int, *context: object) -> int:
    """A 63-bit seed from the run's seed and what it is for."""
    text = "/".join(str(part) for part in (seed, *context))
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "big") >> 1


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """Samples as (image (3, H, W) float32, label () int64) pairs."""

    def __init__(self, samples: Sequence[Sample], transform: Transform, seed: int = 0) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Index) -> tuple[Tensor, Tensor]:
        epoch, position = index
        sample = self.samples[position]
        image = read_image(sample.image) if isinstance(sample.image, Path) else to_rgb(sample.image)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "augment", epoch, sample.name))
            return self.transform(image), torch.tensor(sample.label)


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
    samples: Sequence[Sample],
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    workers: int,
) -> tuple[Batches, EpochSampler]:
    """Shuffled batches of (images (N, 3, H, W), labels (N,)); set the sampler's `epoch` first.

    A last batch of a single image joins no batch statistics and is left out, if there are others.
    """
    sampler = EpochSampler(len(samples), seed=seed)
    loader = DataLoader(
        ImageDataset(samples, transform, seed),
        batch_size=batch_size,
        sampler=sampler,
        # Else making an iterator draws from the global generator.
        generator=torch.Generator(),
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=len(samples) > batch_size and len(samples) % batch_size == 1,
        pin_memory=torch.cuda.is_available(),
    )
    return loader, sampler


def eval_loader(
    samples: Sequence[Sample], transform: Transform, *, batch_size: int, workers: int = 0
) -> Batches:
    """Batches in the samples' own order."""
    return DataLoader(
        ImageDataset(samples, transform),
        batch_size=batch_size,
        sampler=EpochSampler(len(samples)),
        generator=torch.Generator(),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
