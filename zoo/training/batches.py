"""What a network is fed in training: images, or cached activations of its frozen part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.cache import Store
from zoo.data.crops import CropDataset, resize_crops
from zoo.data.dataset import Batches, EpochSampler, ImageDataset, Rows, eval_loader, train_loader
from zoo.data.transforms import RandomView, to_input
from zoo.features.rows import CachedDataset
from zoo.models.replay import Boundary, replay
from zoo.runs.inference import eval_batch_size

#: A forward pass: the model itself, or what wraps it.
Forward = Callable[[Tensor], Any]


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Batches, and how one becomes the network's output.

    Attributes:
        train: Shuffled batches of (what is loaded, targets (N, ...)).
        sampler: Of `train`; is told each epoch.
        on_device: Makes what is fed (N, ...) of what was loaded for training, on the device.
        val: Batches for validation, in order.
        outputs: `(forward, batch) -> forward's output` for what is fed.
        image_size: (height, width) of images; None where they are not what is fed.
    """

    train: Batches
    sampler: EpochSampler
    on_device: Callable[[Any], Tensor]
    val: Batches
    outputs: Callable[[Forward, Tensor], Any]
    image_size: tuple[int, int] | None


def image_feed(
    train: ImageDataset,
    val: ImageDataset,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> Feed:
    """Images go through the whole network.

    A GPU resizes what is cropped from them a batch at a time, where nothing else is changed.
    """
    rows: Rows = train
    on_device: Callable[[Any], Tensor] = _as_it_is
    view = train.augment
    if device.type != "cpu" and isinstance(view, RandomView) and view.only_crops:
        rows = CropDataset(train, view)
        on_device = partial(resize_crops, preprocess=preprocess)
    batches, sampler = train_loader(rows, batch_size=batch_size, seed=train.seed, workers=workers)

    def outputs(forward: Forward, pixels: Tensor) -> Any:
        return forward(to_input(pixels, preprocess, device))

    return Feed(
        train=batches,
        sampler=sampler,
        on_device=on_device,
        val=eval_loader(val, batch_size=eval_batch_size(preprocess), workers=workers),
        outputs=outputs,
        image_size=preprocess.height_width,
    )


def activation_feed(
    train: ImageDataset,
    val: ImageDataset,
    *,
    train_store: Store,
    val_store: Store,
    model: nn.Module,
    boundary: Boundary,
    batch_size: int,
    device: torch.device,
) -> Feed:
    """Cached activations go through what comes after the boundary; the order of images is as ever.

    They come from memory maps, so no processes of their own load them.
    """
    batches, sampler = train_loader(
        CachedDataset(train, train_store), batch_size=batch_size, seed=train.seed, workers=0
    )

    def outputs(forward: Forward, rows: Tensor) -> Any:
        return replay(model, boundary, rows.to(device, non_blocking=True), forward)

    return Feed(
        train=batches,
        sampler=sampler,
        on_device=_as_it_is,
        val=eval_loader(
            CachedDataset(val, val_store),
            batch_size=eval_batch_size(val.bases.prepare.preprocess),
            workers=0,
        ),
        outputs=outputs,
        image_size=None,
    )


def _as_it_is(loaded: Tensor) -> Tensor:
    return loaded
