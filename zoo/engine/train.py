"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoo import plugins
from zoo.backbone import Backbone, Preprocess
from zoo.data.dataset import Batches, EpochSampler, derive_seed
from zoo.data.transforms import to_input
from zoo.engine.events import EpochEnd, Listener, Note, StepEnd
from zoo.errors import PluginError, TrainingError
from zoo.model.depth import Depths
from zoo.model.device import place
from zoo.model.freeze import Freezing, freeze_parameters, train_mode
from zoo.model.groups import parameter_groups
from zoo.model.optim import lr_factor, make_optimizer, set_learning_rates
from zoo.recipe import Recipe
from zoo.run.inference import predict_logits


@dataclass
class TrainingState:
    """All that changes while training, besides model and optimizer."""

    step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    stale_epochs: int = 0

    def improves(self, accuracy: float, loss: float) -> bool:
        """Whether this is the best epoch so far: by accuracy, between equals by loss."""
        return (accuracy, -loss) > (self.best_accuracy, -self.best_loss)


def train(
    model: nn.Module,
    backbone: Backbone,
    recipe: Recipe,
    *,
    preprocess: Preprocess,
    depths: Depths,
    freezing: Freezing,
    accelerator: Accelerator,
    train_batches: Batches,
    sampler: EpochSampler,
    val_batches: Batches,
    class_weights: Tensor | None,
    keep: Callable[[nn.Module, EpochEnd], None],
    listen: Listener,
) -> None:
    """Train for the recipe's epochs, or until patience ends.

    Args:
        model: With its head replaced; what the recipe freezes is frozen here.
        backbone: Says where the head is and what lies how deep.
        recipe: As resolved.
        preprocess: How the backbone wants pixels normalised.
        depths: Of the model.
        freezing: How many of them stand still in which epoch.
        accelerator: Places model and batches.
        train_batches: Yield (pixels (N, 3, H, W) uint8, labels (N,)).
        sampler: Of `train_batches`; is told each epoch.
        val_batches: The same, for validation.
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
    wrapped, optimizer, train_batches = accelerator.prepare(model, optimizer, train_batches)
    bare = accelerator.unwrap_model(wrapped)
    loss_weights = None if class_weights is None else class_weights.to(accelerator.device)
    state = TrainingState()
    for epoch in range(1, recipe.epochs + 1):
        sampler.epoch = epoch
        started = time.perf_counter()
        before, frozen = frozen, freezing.frozen(epoch)
        if frozen < before:
            freeze_parameters(trainable, depths, frozen)
            wrapped = _wrap_again(accelerator, wrapped)
            unfrozen = depths.span(frozen, before - 1)
            listen(Note(text=f"epoch {epoch}: {unfrozen} trains from now on"))
        train_mode(bare, backbone, depths, frozen=frozen, batch_norm=recipe.batch_norm)
        try:
            seen = _train_epoch(
                wrapped,
                backbone,
                optimizer,
                train_batches,
                loss_weights,
                recipe,
                preprocess,
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
            val_loss, val_accuracy = validate(bare, val_batches, preprocess, full_precision)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{accelerator.device} has too little memory for validation; "
                f"try a smaller --image-size"
            ) from error
        # All processes must agree on what is best and when to stop.
        val_loss, val_accuracy = broadcast_object_list([val_loss, val_accuracy])
        if not math.isfinite(val_loss):
            raise TrainingError(
                f"the val loss is {val_loss} after epoch {epoch}; {_smaller_rates(optimizer)}"
            )
        best = state.improves(val_accuracy, val_loss)
        state.stale_epochs = 0 if val_accuracy > state.best_accuracy else state.stale_epochs + 1
        if best:
            state.best_accuracy, state.best_loss = val_accuracy, val_loss
        end = EpochEnd(
            epoch=epoch,
            train_loss=seen.loss / seen.images,
            train_accuracy=seen.correct / seen.images,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            lr_backbone=_rate(optimizer, "backbone"),
            lr_head=_rate(optimizer, "head"),
            seconds=time.perf_counter() - started,
            images_per_second=seen.images / train_seconds,
            best=best,
        )
        keep(bare, end)
        listen(end)
        if recipe.patience and state.stale_epochs >= recipe.patience:
            break


def validate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    preprocess: Preprocess,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> tuple[float, float]:
    """(mean cross entropy, accuracy) in full precision, as `zoo evaluate` computes them."""
    labels: list[Tensor] = []

    def noting_labels() -> Iterable[tuple[Tensor, Tensor]]:
        for pixels, batch_labels in batches:
            labels.append(batch_labels)
            yield pixels, batch_labels

    logits = predict_logits(model, noting_labels(), preprocess, forward)
    truth = torch.cat(labels)
    accuracy = (logits.argmax(dim=1) == truth).double().mean()
    return float(cross_entropy(logits, truth)), float(accuracy)


@dataclass
class _Seen:
    loss: float = 0.0
    correct: float = 0.0
    images: float = 0.0


def _train_epoch(
    model: nn.Module,
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    loss_weights: Tensor | None,
    recipe: Recipe,
    preprocess: Preprocess,
    accelerator: Accelerator,
    state: TrainingState,
    epoch: int,
    listen: Listener,
) -> _Seen:
    steps = len(batches)
    totals = torch.zeros(3, dtype=torch.float64)
    for step, (pixels, labels) in enumerate(batches, start=1):
        # Dropout and stochastic depth become a function of (seed, step), whatever ran before.
        torch.manual_seed(derive_seed(recipe.seed, "step", state.step, accelerator.process_index))
        factor = lr_factor(
            state.step,
            total_steps=steps * recipe.epochs,
            warmup_steps=round(steps * recipe.warmup_epochs),
            schedule=recipe.schedule,
        )
        set_learning_rates(optimizer, factor)
        outputs = model(to_input(pixels, preprocess, accelerator.device))
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        # A frozen network is in eval mode, in which it gives no auxiliary logits.
        if not isinstance(logits, Tensor) or len(auxiliary) not in (0, len(backbone.aux)):
            raise PluginError(
                f"{plugins.describe(backbone)} gives a {type(outputs).__name__} of "
                f"{1 + len(auxiliary)} in train mode, zoo needs logits (N, classes) "
                f"and as many auxiliary ones as the head declares: {len(backbone.aux)}"
            )
        loss = torch.stack(
            [
                loss_share
                * cross_entropy(
                    each.float(),
                    labels,
                    weight=loss_weights,
                    label_smoothing=recipe.label_smoothing,
                )
                for loss_share, each in zip(
                    (1.0, *backbone.aux), (logits, *auxiliary), strict=bool(auxiliary)
                )
            ]
        ).sum()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} in epoch {epoch}, step {step} of {steps}; "
                f"{_smaller_rates(optimizer)}"
            )
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        totals += torch.tensor([loss.item() * len(labels), correct.item(), len(labels)])
        listen(
            StepEnd(epoch=epoch, epochs=recipe.epochs, step=step, steps=steps, images=len(labels))
        )
    totals = accelerator.reduce(totals.to(accelerator.device, torch.float32), reduction="sum")
    return _Seen(*totals.tolist())


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


def _rate(optimizer: torch.optim.Optimizer, part: str) -> float:
    """The learning rate of a part, where it trains; the backbone's is its deepest depth's."""
    rates = [
        group["lr"]
        for group in optimizer.param_groups
        if group["part"] == part and any(p.requires_grad for p in group["params"])
    ]
    return rates[-1] if rates else 0.0


def _smaller_rates(optimizer: torch.optim.Optimizer) -> str:
    rates = ", ".join(f"{part} {_rate(optimizer, part):g}" for part in ("backbone", "head"))
    return f"learning rates: {rates}; try a smaller --lr or --head-lr-mult"
