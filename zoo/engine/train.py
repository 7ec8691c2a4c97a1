"""The training loop."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoo.backbone import Backbone
from zoo.engine.epoch import TrainingState, rate_of, smaller_rates, train_epoch
from zoo.engine.events import EpochEnd, Listener, Note
from zoo.engine.feed import Feed, Forward
from zoo.engine.flops import flops_per_image
from zoo.engine.machine import matmul_peak
from zoo.errors import TrainingError
from zoo.model.depth import Depths
from zoo.model.device import place, place_images
from zoo.model.freeze import Freezing, freeze_parameters, train_mode
from zoo.model.groups import parameter_groups
from zoo.model.optim import make_optimizer
from zoo.recipe import Recipe
from zoo.run.inference import all_logits


def train(
    model: nn.Module,
    backbone: Backbone,
    recipe: Recipe,
    *,
    depths: Depths,
    freezing: Freezing,
    accelerator: Accelerator,
    feed: Feed,
    state: TrainingState,
    class_weights: Tensor | None,
    keep: Callable[[nn.Module, EpochEnd], None],
    listen: Listener,
) -> None:
    """Train for the recipe's epochs, or until patience ends.

    Args:
        model: With its head replaced; what the recipe freezes is frozen here.
        backbone: Says where the head is and what lies how deep.
        recipe: As resolved.
        depths: Of the model.
        freezing: How many of them stand still in which epoch.
        accelerator: Places model and batches.
        feed: Batches for training and validation.
        state: Its best is what an epoch must surpass.
        class_weights: Weight of each class in the loss (C,), or None.
        keep: Called after each epoch with the bare model, in every process.
        listen: Hears `StepEnd` and `EpochEnd`, and a `Note` when something unfreezes.

    Raises:
        TrainingError: The loss is not finite, or the device's memory is too small.
        PluginError: The model's output in train mode is not what the head declares.
    """
    place(model, accelerator.device)
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    freeze_parameters(trainable, depths, freezing.always)
    # All that will ever train is in the optimizer from the start. What is still frozen has no
    # gradient, so the optimizer passes it by and keeps no state of it.
    groups = parameter_groups(
        model,
        backbone,
        lr=recipe.lr,
        head_lr_mult=recipe.head_lr_mult,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        wd_on_norms=recipe.wd_on_norms,
    )
    optimizer = make_optimizer(recipe.optimizer, groups, momentum=recipe.momentum)
    frozen = freezing.frozen(1)
    freeze_parameters(trainable, depths, frozen)
    # prepare() makes calling the model compute in mixed precision; validation is in full.
    full_precision = model.forward
    wrapped, optimizer, batches = accelerator.prepare(model, optimizer, feed.train)
    bare = accelerator.unwrap_model(wrapped)
    loss_weights = None if class_weights is None else class_weights.to(accelerator.device)
    for epoch in range(1, recipe.epochs + 1):
        feed.sampler.epoch = epoch
        started = time.perf_counter()
        before, frozen = frozen, freezing.frozen(epoch)
        if frozen < before:
            freeze_parameters(trainable, depths, frozen)
            wrapped = _wrap_again(accelerator, wrapped)
            unfrozen = depths.span(frozen, before - 1)
            listen(Note(text=f"epoch {epoch}: {unfrozen} trains from now on"))
        train_mode(bare, backbone, depths, frozen=frozen, batch_norm=recipe.batch_norm)
        if epoch == 1 or frozen < before:
            most = _most_images_per_second(bare, feed, accelerator)
            started = time.perf_counter()
        try:
            seen = train_epoch(
                wrapped,
                backbone,
                optimizer,
                batches,
                feed.outputs,
                loss_weights,
                recipe,
                accelerator,
                state,
                epoch,
                listen,
            )
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{accelerator.device} has too little memory for a batch of {recipe.batch_size}; "
                f"try a smaller --batch-size or --image-size"
            ) from error
        train_seconds = time.perf_counter() - started
        try:
            val_loss, val_accuracy = validate(bare, feed, full_precision)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{accelerator.device} has too little memory for validation; "
                f"try a smaller --image-size"
            ) from error
        # All processes must agree on what is best and when to stop.
        val_loss, val_accuracy = broadcast_object_list([val_loss, val_accuracy])
        if not math.isfinite(val_loss):
            raise TrainingError(
                f"the val loss is {val_loss} after epoch {epoch}; {smaller_rates(optimizer)}"
            )
        best = state.improves(val_accuracy, val_loss)
        state.stale_epochs = 0 if val_accuracy > state.best_accuracy else state.stale_epochs + 1
        if best:
            state.best_accuracy, state.best_loss = val_accuracy, val_loss
        per_second = seen.images / train_seconds
        end = EpochEnd(
            epoch=epoch,
            train_loss=seen.loss / seen.images,
            train_accuracy=seen.correct / seen.images,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            lr_backbone=rate_of(optimizer, "backbone"),
            lr_head=rate_of(optimizer, "head"),
            seconds=time.perf_counter() - started,
            images_per_second=per_second,
            data_seconds=seen.data_seconds,
            peak_share=None if most is None else per_second / most,
            best=best,
        )
        keep(bare, end)
        listen(end)
        if recipe.patience and state.stale_epochs >= recipe.patience:
            break


def validate(model: nn.Module, feed: Feed, forward: Forward) -> tuple[float, float]:
    """(mean cross entropy, accuracy) in full precision, as `zoo evaluate` computes them."""
    labels: list[Tensor] = []

    def noting_labels() -> Iterator[tuple[Tensor, Tensor]]:
        for batch, batch_labels in feed.val:
            labels.append(batch_labels)
            yield batch, batch_labels

    logits = all_logits(model, noting_labels(), lambda batch: feed.outputs(forward, batch))
    truth = torch.cat(labels)
    accuracy = (logits.argmax(dim=1) == truth).double().mean()
    return float(cross_entropy(logits, truth)), float(accuracy)


@functools.cache
def _peak(device: torch.device, dtype: torch.dtype) -> float:
    return matmul_peak(device, dtype=dtype, seconds=0.1)


def _most_images_per_second(model: nn.Module, feed: Feed, accelerator: Accelerator) -> float | None:
    """Images a second if training computed as fast as matrices are multiplied here."""
    if feed.image_size is None:
        return None
    device = accelerator.device
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
        accelerator.mixed_precision, torch.float32
    )
    images = place_images(torch.zeros(2, 3, *feed.image_size), device)
    flops = flops_per_image(model, images, backward=True)
    return float(accelerator.num_processes * _peak(device, dtype) / flops)


def _wrap_again(accelerator: Accelerator, wrapped: nn.Module) -> nn.Module:
    """Have the gradients of what was unfrozen averaged over all processes too.

    DistributedDataParallel looks after those parameters alone that train when it is made.
    """
    if accelerator.num_processes == 1:
        return wrapped
    # Without its mixed-precision wrapper, which prepare_model would put round the old one.
    bare = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    prepared: nn.Module = accelerator.prepare_model(bare)
    return prepared
