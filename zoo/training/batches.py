"""What a network is fed in training: images, or cached activations of its frozen part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.cache import Store
from zoo.data.dataset import Batches, EpochSampler, ImageDataset, eval_loader, train_loader
from zoo.data.transforms import to_input
from zoo.features.rows import CachedDataset
from zoo.models.replay import Boundary, replay
from zoo.runs.inference import eval_batch_size

#: A forward pass: the model itself, or what wraps it.
Forward = Callable[[Tensor], Any]


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """Batches, and how one becomes the network's output.

    Attributes:
        train: Shuffled batches of (what is loaded, targets (N, ...)).
        sampler: Of `train`; is told each epoch.
        val: Batches for validation, in order.
        outputs: `(forward, batch) -> forward's output` for what is fed.
        image_size: (height, width) of images; None where they are not what is fed.
    """

    train: Batches
    sampler: EpochSampler
    val: Batches
    outputs: Callable[[Forward, Tensor], Any]
    image_size: tuple[int, int] | None


def image_loaders(
    train: ImageDataset,
    val: ImageDataset,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> Loaders:
    """Images go through the whole network."""
    batches, sampler = train_loader(train, batch_size=batch_size, seed=train.seed, workers=workers)

    def outputs(forward: Forward, pixels: Tensor) -> Any:
        return forward(to_input(pixels, preprocess, device))

    return Loaders(
        train=batches,
        sampler=sampler,
        val=eval_loader(val, batch_size=eval_batch_size(preprocess), workers=workers),
        outputs=outputs,
        image_size=preprocess.height_width,
    )


def activation_loaders(
    train: ImageDataset,
    val: ImageDataset,
    *,
    train_store: Store,
    val_store: Store,
    model: nn.Module,
    boundary: Boundary,
    batch_size: int,
    device: torch.device,
) -> Loaders:
    """Cached activations go through what comes after the boundary; the order of images is as ever.

    They come from memory maps, so no processes of their own load them.
    """
    batches, sampler = train_loader(
        CachedDataset(train, train_store), batch_size=batch_size, seed=train.seed, workers=0
    )

    def outputs(forward: Forward, rows: Tensor) -> Any:
        return replay(model, boundary, rows.to(device, non_blocking=True), forward)

    return Loaders(
        train=batches,
        sampler=sampler,
        val=eval_loader(
            CachedDataset(val, val_store),
            batch_size=eval_batch_size(val.bases.prepare.preprocess),
            workers=0,
        ),
        outputs=outputs,
        image_size=None,
    )
