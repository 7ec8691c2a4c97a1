"""Fit the head on features that are computed once, and put it into the model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoo.backbone import Backbone, Preprocess
from zoo.cache import Store
from zoo.data.dataset import ImageDataset, Index
from zoo.data.transforms import to_input
from zoo.engine.events import EpochEnd, Listener, Note
from zoo.engine.frozen import collect, views_of
from zoo.engine.probe import Probe, fit_probe
from zoo.errors import BoundaryError
from zoo.model.boundary import find_boundary
from zoo.model.depth import Depths
from zoo.model.freeze import frozen_meanwhile
from zoo.model.fuse import fuse_batch_norms
from zoo.model.head import head_leaves
from zoo.model.memory import out_of_memory_as
from zoo.model.replay import Boundary, activations, replay
from zoo.recipe import Recipe


def probe_boundary(
    model: nn.Module, backbone: Backbone, depths: Depths, image_size: tuple[int, int]
) -> Boundary:
    """Where the features of a probe are read: the input of the head's one leaf.

    Raises:
        BoundaryError: The logits are no affine function of one row of features per image.
    """
    refusal = f"a probe can't be fitted to the head of backbone {backbone.name}: "
    leaves = head_leaves(model, backbone)
    if len(leaves) != 1:
        raise BoundaryError(f"{refusal}it has {len(leaves)} leaves ({', '.join(leaves)}), not one")
    ((path, leaf),) = leaves.items()
    if not isinstance(leaf, nn.Linear | nn.Conv2d) or leaf.bias is None:
        kind = type(leaf).__name__
        bias = " without a bias" if isinstance(leaf, nn.Linear | nn.Conv2d) else ""
        raise BoundaryError(f"{refusal}{path} is a {kind}{bias}")
    with frozen_meanwhile(model, backbone, depths, frozen=len(depths), batch_norm="frozen"):
        boundary = find_boundary(model, backbone, image_size=image_size)
        noise = torch.Generator().manual_seed(0)
        rows = torch.randn(2, *boundary.shape, generator=noise).to(leaf.weight.device)
        affine = (
            boundary.name == f"the input of {path}"
            and rows[0].numel() * len(leaf.weight) == leaf.weight.numel()
        )
        if affine:
            with torch.no_grad():
                linear = torch.nn.functional.linear(
                    rows.flatten(1), leaf.weight.flatten(1), leaf.bias
                )
                affine = torch.allclose(replay(model, boundary, rows), linear, atol=1e-4)
    if not affine:
        raise BoundaryError(f"{refusal}its logits are not {path} of one row of features per image")
    return boundary


def train_probe(
    model: nn.Module,
    backbone: Backbone,
    recipe: Recipe,
    *,
    boundary: Boundary,
    preprocess: Preprocess,
    train: ImageDataset,
    views: ImageDataset,
    val: ImageDataset,
    store: Store | None,
    views_store: Store | None,
    num_classes: int,
    class_weights: Tensor | None,
    accelerator: Accelerator,
    listen: Listener,
) -> EpochEnd:
    """Fit a probe to the images and put its weights into the model's head.

    Args:
        model: On its device, in the layout of `zoo.model.device.place`.
        backbone: Says where its head is.
        recipe: As resolved: seed, views, label smoothing.
        boundary: From `probe_boundary`.
        preprocess: Of the images.
        train: The images as prediction sees them.
        views: The same, augmented: `recipe.views` of each are learnt from as well.
        val: Held-out images, as prediction sees them.
        store: Features of images as prediction sees them, in the main process, if they are kept.
        views_store: Of augmented images, likewise.
        num_classes: Of the head.
        class_weights: (classes,), or None.
        accelerator: Many processes compute a share each.
        listen: Hears `Progress`, and a `Note` on what was found.

    Returns:
        How good it is, as epoch 0.

    Raises:
        TrainingError: A feature is not finite, or memory too small.
    """
    started = time.perf_counter()
    compute = _features(model, boundary, preprocess, accelerator.device)

    computed = 0

    def rows(images: ImageDataset, indices: list[Index], kept: Store | None, what: str) -> Tensor:
        nonlocal computed
        found, count = collect(
            images, indices, compute, kept, accelerator=accelerator, what=what, listen=listen
        )
        computed += count
        return found

    features = rows(train, views_of(train), store, "features")
    if recipe.views:
        wanted = views_of(views, range(1, recipe.views + 1))
        augmented = rows(views, wanted, views_store, "features of views")
        features = torch.cat([features, augmented])
    val_features = rows(val, views_of(val), store, "val features")
    feature_seconds = time.perf_counter() - started
    repeats = len(features) // len(train)
    labels = _labels(train).repeat(repeats)
    with out_of_memory_as(
        f"{accelerator.device} has too little memory to fit a probe to {len(features)} rows of "
        f"{features.shape[1]} features; try fewer --views, another --device or --train finetune"
    ):
        probe = fit_probe(
            features.to(accelerator.device),
            labels,
            num_classes,
            images=torch.arange(len(train)).repeat(repeats),
            class_weights=class_weights,
            label_smoothing=recipe.label_smoothing,
            seed=recipe.seed,
        )
    _put(model, backbone, probe)
    listen(Note(text=_found(probe, computed, len(features) + len(val_features))))
    train_loss, train_accuracy = _measured(probe, features, labels)
    val_loss, val_accuracy = _measured(probe, val_features, _labels(val))
    return EpochEnd(
        epoch=0,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        lr_backbone=0.0,
        lr_head=0.0,
        seconds=time.perf_counter() - started,
        images_per_second=computed / feature_seconds,
        data_seconds=0.0,
        peak_share=None,
        best=True,
    )


def _features(
    model: nn.Module, boundary: Boundary, preprocess: Preprocess, device: torch.device
) -> Callable[[Tensor], Tensor]:
    model.eval()
    noise = torch.Generator().manual_seed(0)
    example = torch.randn(2, 3, *boundary.image_size, generator=noise).to(device)

    def forward(net: nn.Module, images: Tensor) -> Tensor:
        return activations(net, boundary, images)

    @functools.cache
    def net() -> nn.Module:
        """The network, folded once there is something to compute."""
        return fuse_batch_norms(model, example, forward).model

    def compute(pixels: Tensor) -> Tensor:
        return forward(net(), to_input(pixels, preprocess, device)).flatten(1)

    return compute


def _labels(images: ImageDataset) -> Tensor:
    return torch.tensor([sample.label for sample in images.bases.samples])


@torch.no_grad()
def _put(model: nn.Module, backbone: Backbone, probe: Probe) -> None:
    (leaf,) = head_leaves(model, backbone).values()
    for name, value in (("weight", probe.weight), ("bias", probe.bias)):
        parameter = leaf.get_parameter(name)
        parameter.copy_(value.view_as(parameter))


def _measured(probe: Probe, features: Tensor, labels: Tensor) -> tuple[float, float]:
    logits = probe.logits(features.to(probe.weight.device)).cpu()
    accuracy = (logits.argmax(dim=1) == labels).double().mean()
    return float(cross_entropy(logits, labels)), float(accuracy)


def _found(probe: Probe, computed: int, total: int) -> str:
    origin = "all from the cache" if not computed else f"{total - computed} of them from the cache"
    return (
        f"probe: {total} rows of {probe.weight.shape[1]} features, {origin}; "
        f"penalty {probe.penalty:.3g}, {probe.accuracy:.2%} in cross-validation"
    )
