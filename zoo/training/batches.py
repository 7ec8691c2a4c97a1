"""Inputs of the network during training: images, or cached activations of its frozen part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.cache import Store
from zoo.data.dataset import (
    Batches,
    EpochSampler,
    ImageDataset,
    eval_loader,
    share_of,
    train_loader,
)
from zoo.data.transforms import to_input
from zoo.features.rows import CachedDataset
from zoo.models.replay import Boundary, replay
from zoo.runs.inference import eval_batch_size

#: A forward pass: the model itself, or its wrapper.
Forward = Callable[[Tensor], Any]


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """Data loaders, and how a batch is passed through the network.

    Attributes:
        train: Shuffled batches of (inputs, targets (N, ...)).
        sampler: Sampler of `train`; its `epoch` is set before each epoch.
        val: Batches for validation: those of this process, in order.
        val_positions: Position in the val split of each image of `val`.
        val_targets: (N, ...), of all val images.
        outputs: `(forward, inputs) -> output of forward`.
        image_size: (height, width) of the images; None if the inputs are not images.
    """

    train: Batches
    sampler: EpochSampler
    val: Batches
    val_positions: Sequence[int]
    val_targets: Tensor
    outputs: Callable[[Forward, Tensor], Any]
    image_size: tuple[int, int] | None


def image_loaders(
    train: ImageDataset,
    val: ImageDataset,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int,
    accelerator: Accelerator,
) -> Loaders:
    """Create loaders of images, which pass through the whole network.

    Several processes share the val images.
    """
    batches, sampler = train_loader(
        train,
        batch_size=batch_size,
        seed=train.seed,
        workers=workers,
        repeats=train.repeats,
    )
    val_batch = eval_batch_size(preprocess)
    positions = share_of(len(val), val_batch, accelerator.process_index, accelerator.num_processes)

    def outputs(forward: Forward, pixels: Tensor) -> Any:
        return forward(to_input(pixels, preprocess, accelerator.device))

    return Loaders(
        train=batches,
        sampler=sampler,
        val=eval_loader(val, batch_size=val_batch, workers=workers, positions=positions),
        val_positions=positions,
        val_targets=val.targets,
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
    """Create loaders of cached activations, which pass through the layers after the boundary.

    The order is that of `image_loaders`. No worker processes are used, as memory maps are read.
    """
    batches, sampler = train_loader(
        CachedDataset(train, train_store),
        batch_size=batch_size,
        seed=train.seed,
        workers=0,
        repeats=train.repeats,
    )

    def outputs(forward: Forward, rows: Tensor) -> Any:
        return replay(model, boundary, rows.to(device, non_blocking=True), forward)

    return Loaders(
        train=batches,
        sampler=sampler,
        val=eval_loader(
            CachedDataset(val, val_store),
            batch_size=eval_batch_size(val.decoded.prepare.preprocess),
            workers=0,
        ),
        val_positions=range(len(val)),
        val_targets=val.targets,
        outputs=outputs,
        image_size=None,
    )
