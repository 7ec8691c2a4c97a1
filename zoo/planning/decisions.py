"""Values that zoo chooses if the user does not set them; each choice is reported and recorded."""

from __future__ import annotations

import importlib.util
import math
import os
from collections import Counter
from collections.abc import Sequence

import torch

from zoo.backbone import Backbone
from zoo.data.columns import label_counts
from zoo.data.dataset import steps_of_epoch
from zoo.data.sources.demo import IMAGE_SIZE
from zoo.data.split import Splits
from zoo.data.transforms import ERASING, MILD_CROP
from zoo.errors import RecipeError
from zoo.events import Listener, Note
from zoo.features.invariance import Change
from zoo.io.text import count
from zoo.models.optim import check_optimizer, has_momentum
from zoo.planning.config import Resolver
from zoo.recipe import Recipe
from zoo.recipe.fields import seconds_of
from zoo.runs.figures import unmeasured
from zoo.tasks import TASKS, fitting_task, metric_label
from zoo.training.budget import Speed, affordable_epochs

#: Defaults of the demo: mirrored digits are not digits, and the images are small.
DEMO = {"hflip": False, "image_size": IMAGE_SIZE}

#: Defaults that differ for SGD (the others are for AdamW), without and after a probe.
SGD = {"lr": 1e-3, "weight_decay": 1e-4}
SGD_AFTER_PROBE = {**SGD, "lr": 5e-4}

#: Defaults that differ after a probe, which has already trained the head.
PROBED = {"head_lr_mult": 1.0}

#: Weight and temperature of distillation (docs/distillation.md).
DISTILLED = {"distill_weight": 0.5, "distill_temperature": 2.0}

#: Number of images from which a probe needs no augmented views; maximum number of views.
_ROWS_ENOUGH, _MOST_VIEWS = 200, 4

#: Defaults that differ for random weights: everything is trained, also batch-norm statistics.
FROM_SCRATCH = {"train": "finetune", "batch_norm": "train", "lr": 1e-3, "head_lr_mult": 1.0}
FROM_SCRATCH_SGD = {**FROM_SCRATCH, "lr": 0.05}

#: Ratio of the largest to the smallest class from which classes are strongly imbalanced.
_IMBALANCED = 5

#: Maximum number of epochs with a time limit, unless the user sets `epochs`.
_MOST_EPOCHS = 30

#: Part of `steps` or `samples` that are warm-up, at most.
_WARMUP_PART = 1 / 6

#: Minimum number of steps per epoch with a larger batch.
_FEWEST_STEPS = 32

#: Smallest and largest default number of images per step, for which the default rates are chosen.
_LEAST_BATCH, _MOST_BATCH = 16, 64


#: Fields that only fine-tuning uses. With a probe alone, a recipe has no adapters and no teacher.
_OF_FINETUNING = (
    *("unfreeze_epoch", "batch_norm", "epochs", "steps", "samples", "global_batch"),
    *("grad_accumulation", "probe_scale", "interpolate", "patience", "on_nan", "checkpoint_every"),
    *("lr", "head_lr_mult", "optimizer", "optimizer_options", "momentum", "layer_decay"),
    *("weight_decay", "wd_on_norms", "clip_grad", "schedule", "schedule_power", "warmup_epochs"),
    *("warmup_steps", "warmup_start", "warmup_prefix", "ema_decay", "average_epochs"),
    *("repeated_augmentation", "mixup", "cutmix"),
)

#: Fields that a probe uses only for its views.
_OF_VIEWS = ("augment", "hflip", "crop_scale", "random_erasing", "transform")

#: Schedules that have a `schedule_power`.
_WITH_POWER = ("polynomial", "exponential")


def note_unused(resolver: Resolver, listen: Listener) -> None:
    """Say which fields that the user has set have no effect beside the others, and why."""
    for name, why in _unused(resolver.recipe).items():
        if resolver.changed(name):
            listen(Note(text=f"{name} has no effect: {why}"))


def _unused(recipe: Recipe) -> dict[str, str]:
    """Return why fields have no effect beside the others, by field."""
    found: dict[str, str] = {}
    if recipe.train == "probe":
        found |= dict.fromkeys(_OF_FINETUNING, "only fine-tuning uses it")
        if not recipe.probe_views:
            found |= dict.fromkeys(_OF_VIEWS, "the probe has no augmented views (probe_views = 0)")
        return found
    if recipe.augment == "none":
        changes = [name for name in ("hflip", "crop_scale") if getattr(recipe, name)]
        found |= dict.fromkeys(changes, "augment = none")
    if recipe.train == "finetune":
        found["probe_scale"] = "there is no probe"
        if recipe.distill_weight == 1:
            labels = ("label_smoothing", "class_weights")
            found |= dict.fromkeys(labels, "distill_weight = 1: labels are not learnt from")
    if not has_momentum(recipe.optimizer):
        found["momentum"] = f"{recipe.optimizer} has none"
    if recipe.schedule not in _WITH_POWER:
        found["schedule_power"] = f"schedule = {recipe.schedule} has none"
    if recipe.warmup_steps is not None:
        found["warmup_epochs"] = "warmup_steps takes its place"
    # The lowest rate of one-cycle is a part of its first one, also without a way up.
    warms_up = recipe.warmup_epochs if recipe.warmup_steps is None else recipe.warmup_steps
    if not warms_up and recipe.schedule != "one-cycle":
        found |= dict.fromkeys(("warmup_start", "warmup_prefix"), "there is no warm-up")
    return found


def decide_augmentation(resolver: Resolver) -> None:
    """Decide the probability of random erasing, if it is left open."""
    recipe = resolver.recipe
    if recipe.random_erasing is None:
        erasing = ERASING.get(recipe.augment, 0.0)
        resolver.replace(f"with augment = {recipe.augment}", random_erasing=erasing)


def decide_optimizer(resolver: Resolver) -> None:
    """Check the optimizer, and its options, each of which becomes a value of its type.

    Raises:
        RecipeError: There is no such optimizer, or it has no such options.
    """
    recipe = resolver.recipe
    name = recipe.optimizer
    if name not in ("adamw", "sgd") or recipe.optimizer_options:
        options = check_optimizer(name, recipe.optimizer_options, momentum=recipe.momentum)
        resolver.spell_out(optimizer_options=options)


def decide_adapters(resolver: Resolver) -> None:
    """Decide the scale of the adapters, if there are any.

    Raises:
        RecipeError: The package for them is not installed.
    """
    rank = resolver.recipe.lora_rank
    if rank is None:
        return
    if importlib.util.find_spec("peft") is None:
        raise RecipeError(
            "`lora_rank` needs peft, which is not installed",
            hint="pip install 'zoo-finetune[lora]'",
        )
    if resolver.recipe.lora_alpha is None:
        resolver.replace("twice the rank", lora_alpha=2.0 * rank)


def decide_distillation(resolver: Resolver) -> None:
    """Decide weight and temperature of distillation, if there is a teacher."""
    recipe = resolver.recipe
    if recipe.teacher is not None:
        left_open = {k: v for k, v in DISTILLED.items() if getattr(recipe, k) is None}
        resolver.replace("with a teacher", **left_open)


def decide_for_demo(resolver: Resolver, backbone: Backbone, listen: Listener) -> None:
    """Decide the demo's settings, if no data is given."""
    if resolver.recipe.data is not None:
        return
    listen(
        Note(text="no `data` given: this is the demo, on scikit-learn's 1,797 handwritten digits")
    )
    fixed = backbone.preprocess.fixed_size
    changes = {k: v for k, v in DEMO.items() if not (fixed and k == "image_size")}
    resolver.decide("for the demo", **changes)


def decide_stages(resolver: Resolver, train_images: int, listen: Listener) -> None:
    """Decide the probe's views, what it freezes, and the head's learning rate after it."""
    recipe = resolver.recipe
    if recipe.train == "finetune":
        resolver.spell_out(views=recipe.views or 0, probe_views=0)
        return
    if resolver.asked("views") and not resolver.asked("probe_views"):
        resolver.spell_out(probe_views=recipe.views)
    elif train_images < _ROWS_ENOUGH:
        views = min(_MOST_VIEWS, _ROWS_ENOUGH // train_images)
        resolver.decide(f"with {count(train_images, 'image')}", probe_views=views)
    recipe = resolver.recipe
    resolver.spell_out(views=recipe.views or 0, probe_views=recipe.probe_views or 0)
    if recipe.head_init != Recipe.model_fields["head_init"].default:
        text = f"head_init = {recipe.head_init} has no effect: the probe's weights become the head"
        listen(Note(text=text))
    if recipe.train == "probe":
        fields = ("lora_rank", "lora_alpha", "teacher", *DISTILLED, "unlabelled")
        resolver.replace(
            "a probe trains the head alone", freeze="backbone", **dict.fromkeys(fields)
        )
    else:
        resolver.decide("after a probe", **PROBED)


def decide_rates(resolver: Resolver, listen: Listener) -> None:
    """Decide learning rates, weight decay and batch norm, for random weights and for SGD.

    For other optimizers, the learning rate is AdamW's; a note says so.
    """
    recipe = resolver.recipe
    if recipe.optimizer == "sgd" and recipe.weights == "none":
        resolver.decide("from random weights, with SGD", **{**SGD, **FROM_SCRATCH_SGD})
    elif recipe.optimizer == "sgd":
        resolver.decide("with SGD", **(SGD if recipe.train == "finetune" else SGD_AFTER_PROBE))
    elif recipe.weights == "none":
        resolver.decide("from random weights", **FROM_SCRATCH)
    other = recipe.optimizer not in ("adamw", "sgd") and recipe.train != "probe"
    if other and not resolver.asked("lr"):
        default = f"lr = {resolver.recipe.lr:g} was chosen for adamw"
        listen(Note(text=f"{default}: set `lr` for {recipe.optimizer}"))
    _scale_rates(resolver, listen)


def _scale_rates(resolver: Resolver, listen: Listener) -> None:
    """Scale the learning rate by the global batch, if that is given and the rate is not.

    With SGD linearly (Goyal et al., 2017), with adaptive optimizers by the square root (Malladi et
    al., 2022), beyond the range of batch sizes for which the default rate was chosen.
    """
    recipe = resolver.recipe
    if recipe.global_batch is None or resolver.asked("lr"):
        return
    usual = min(max(recipe.global_batch, _LEAST_BATCH), _MOST_BATCH)
    ratio = recipe.global_batch / usual
    linear = recipe.optimizer == "sgd"
    scaled = recipe.lr * (ratio if linear else math.sqrt(ratio))
    if ratio == 1 or recipe.train == "probe":
        return
    rule = "linearly" if linear else "by the square root"
    why = f"scaled {rule} from {usual} to {recipe.global_batch} images a step"
    listen(Note(text=f"lr = {scaled:.3g} instead of {recipe.lr:g}: {why} (unless set explicitly)"))
    resolver.replace(why, lr=scaled)


def decide_task(resolver: Resolver, splits: Splits, listen: Listener) -> None:
    """Decide the task, if it is left open, by the number of labels of the images.

    Raises:
        RecipeError: The task is single-label, but an image has several labels or none.
    """
    sizes: Counter[int] = Counter()
    for split in (splits.train, splits.val):
        for labels, number in label_counts(split).items():
            sizes[len(labels)] += number
    none = sizes[0]
    several = sizes.total() - none - sizes[1]
    recipe = resolver.recipe
    found = f"{count(several, 'image')} with several labels, {none:,} without a label"
    if recipe.task != "auto":
        if TASKS[recipe.task].exclusive and several + none:
            raise RecipeError(
                f"task is {recipe.task}, but there are {found}",
                hint="leave `task` out, or correct them",
            )
        return
    task = fitting_task([*sizes]).name
    if several + none:
        listen(Note(text=f"{found}: task = {task}"))
    resolver.replace(found if several + none else "each image has one label", task=task)


def decide_metric(resolver: Resolver, train_counts: Sequence[int], listen: Listener) -> None:
    """Decide the metric and the class weights, if left open, by the imbalance of the classes.

    Raises:
        RecipeError: The task does not have this metric.
    """
    recipe = resolver.recipe
    task = TASKS[recipe.task]
    if recipe.metric not in ("auto", *task.metrics):
        raise RecipeError(
            f"metric {recipe.metric} is not one of {task.name}; "
            f"give one of {', '.join(task.metrics)}"
        )
    if task.metric_if_imbalanced is None:
        if recipe.metric == "auto":
            resolver.replace(task.name, metric=task.metrics[0])
        if recipe.class_weights == "auto":
            resolver.replace(task.name, class_weights="none")
        return
    ratio = max(train_counts) / max(1, min(train_counts))
    why = f"the largest class has {ratio:.3g} times the train images of the smallest"
    if recipe.metric == "auto":
        metric = task.metric_if_imbalanced if ratio >= _IMBALANCED else task.metrics[0]
        if metric != task.metrics[0]:
            listen(Note(text=f"{why}: metric = {metric}"))
        resolver.replace(why, metric=metric)
    if recipe.class_weights == "auto":
        balanced = resolver.recipe.metric == task.metric_if_imbalanced
        weights = "balanced" if balanced else "none"
        if balanced:
            decides = metric_label(resolver.recipe.metric)
            listen(Note(text=f"{decides} decides: class_weights = {weights}"))
        resolver.replace(f"{resolver.recipe.metric} is the metric", class_weights=weights)


def decide_unmeasured(
    resolver: Resolver, class_names: Sequence[str], val_counts: Sequence[int], listen: Listener
) -> None:
    """Warn about classes without val images; without any such images, keep the last epoch."""
    if not any(val_counts):
        resolver.replace("there are no val images", interpolate=False, patience=0)
        text = "no val images: the last epoch is kept, and nothing is measured on held-out images"
        listen(Note(text=text))
    elif (missing := unmeasured(class_names, val_counts, "val")) is not None:
        listen(Note(text=missing, warning=True))


def decide_epochs(
    recipe: Recipe,
    speed: Speed,
    *,
    train_images: int,
    val_images: int,
    spent: float,
    unlabelled: int = 0,
    probed: bool = False,
    listen: Listener,
) -> int:
    """Return the number of epochs that fit into the rest of the recipe's `time`; 0 if none does."""
    budget = seconds_of(str(recipe.time))
    probe = 0.0 if probed else probe_seconds(recipe, speed, train_images, val_images)
    if recipe.train == "probe":
        listen(Note(text=f"time {recipe.time}: about {spent + probe:.0f} s for a probe"))
        return 0
    most = recipe.epochs if "epochs" in recipe.model_fields_set else _MOST_EPOCHS
    left = budget - spent - probe
    trained = most_images(recipe, train_images + unlabelled)
    epochs = affordable_epochs(left, speed, trained, val_images, most)
    each = speed.epoch(trained, val_images)
    known = f"{spent:.0f} s so far, " if probed else f"probe {probe:.0f} s, "
    total = spent + probe + epochs * each
    listen(
        Note(
            text=f"time {recipe.time}: {known}{count(epochs, 'epoch')} of {each:.0f} s; "
            f"about {total:.0f} s in all"
        )
    )
    return epochs


def most_images(recipe: Recipe, images: int) -> int:
    """Return the images of an epoch, or, if they are fewer, those of `steps` or `samples`.

    A recipe has these and `time` only in a search, which is one process.
    """
    length = recipe.length(1)
    return images if length is None else min(images, length * recipe.step_images(1))


def probe_seconds(recipe: Recipe, speed: Speed, train_images: int, val_images: int) -> float:
    """Return the estimated duration of the recipe's probe; 0 without one."""
    if recipe.train == "finetune":
        return 0.0
    passes = 1 + (recipe.hflip is None) + (recipe.crop_scale is None) + (recipe.probe_views or 0)
    return speed.forward * (passes * train_images + val_images)


def decide_change(name: str, change: Change, smallest_crop: float) -> tuple[bool | float, str]:
    """Return `hflip` or `crop_scale` as cross-validation with changed images decides, and why.

    Mirroring loses no information, so it must not make the probe worse in any way. Cropping does,
    so small crops are rejected only if learning from them makes the probe worse too.
    """
    mirrors = name == "hflip"
    what, changed = ("mirroring", "mirrored") if mirrors else ("small crops", "cropped")
    if mirrors:
        keeps = not (change.worse_when_trained or change.worse_when_evaluated)
        value: bool | float = keeps
        shown = "yes" if keeps else "no"
    else:
        keeps = not (change.worse_when_trained and change.worse_when_evaluated)
        value = smallest_crop if keeps else MILD_CROP
        shown = f"{value:g}"
    return value, (
        f"{what} {'is' if mirrors else 'are'} {'used' if keeps else 'not used'}: {name} = {shown} "
        f"(cross-validated log-loss {change.loss_without:.3f} without, {change.loss_with:.3f} "
        f"with; accuracy {change.accuracy:.0%}, on {changed} images {change.accuracy_changed:.0%})"
    )


def decide_batch(
    resolver: Resolver, train_images: int, device: torch.device, processes: int
) -> None:
    """Decide the number of images per step and process, or check that it can be divided.

    Raises:
        RecipeError: The global batch can't be divided evenly.
    """
    recipe = resolver.recipe
    if recipe.global_batch is None:
        size = recipe.batch_size or choose_batch_size(train_images, device)
        resolver.replace("for the machine and the number of images", batch_size=size)
        return
    parts = processes * recipe.grad_accumulation
    if recipe.global_batch % parts:
        named = count(processes, "process", "processes")
        if recipe.grad_accumulation > 1:
            named += f" with `grad_accumulation={recipe.grad_accumulation}`"
        nearest = max(1, round(recipe.global_batch / parts)) * parts
        raise RecipeError(
            f"global_batch = {recipe.global_batch} can't be divided evenly among {named}",
            hint=f"give a multiple of {parts}, such as `global_batch={nearest}`",
        )


def decide_length(resolver: Resolver, images: int, processes: int) -> None:
    """Decide the number of epochs, and that of warm-up, if steps or samples are given.

    Args:
        resolver: Its batch size is decided.
        images: Number of images of an epoch.
        processes: Number of processes.

    Raises:
        RecipeError: A part is unfrozen after the last epoch.
    """
    recipe = resolver.recipe
    length = recipe.length(processes)
    if length is None:
        return
    name = "steps" if recipe.samples is None else "samples"
    steps = steps_of_epoch(images, recipe.step_images(processes), processes)
    epochs = math.ceil(length / steps)
    if resolver.asked("epochs"):
        epochs = min(epochs, recipe.epochs)
    if recipe.unfreeze_epochs and recipe.unfreeze_epochs[-1] > epochs:
        raise RecipeError(
            f"unfreeze_epoch = {recipe.unfreeze_epoch!r}: `{name}` end in epoch {epochs}",
            hint=f"give more `{name}`, or an earlier epoch",
        )
    resolver.replace(f"the epochs of `{name}`", epochs=epochs)
    if not resolver.asked("warmup_epochs") and recipe.warmup_steps is None:
        most = min(length, epochs * steps) / steps * _WARMUP_PART
        resolver.replace(f"a part of `{name}`", warmup_epochs=min(recipe.warmup_epochs, most))


def choose_batch_size(train_images: int, device: torch.device) -> int:
    """Return the number of images per step: 16 on a CPU, up to 64 on a GPU.

    A CPU is as fast with 16 as with more, in half the memory. A GPU gets more than 16 only if an
    epoch still has enough steps.
    """
    largest = _LEAST_BATCH if device.type == "cpu" else _MOST_BATCH
    while largest > _LEAST_BATCH and train_images < largest * _FEWEST_STEPS:
        largest //= 2
    return largest


def choose_micro_batch(recipe: Recipe, device: torch.device, processes: int) -> int | None:
    """Return the number of images of a step that are computed at a time; None: all of them.

    A CPU is as fast with 8 as with more, in less memory. With gradient accumulation, the parts are
    the batches. Batch norms that update their statistics
    take them from the images that are computed together, so they get the whole batch.
    """
    most = 8 if device.type == "cpu" and recipe.batch_norm == "frozen" else None
    if recipe.grad_accumulation == 1:
        return most
    batch = recipe.batch_images(processes)
    return min(batch, most or batch)


def warn_of_slow_precision(precision: str, device: torch.device, listen: Listener) -> None:
    """Warn if a CPU has to emulate the precision."""
    if precision == "bf16" and device.type == "cpu" and not _has_bf16():
        listen(
            Note(
                text="this CPU has no bfloat16: torch computes it by other means, up to hundreds "
                "of times more slowly than `precision=fp32`",
                warning=True,
            )
        )


def _has_bf16() -> bool:
    """Return whether this CPU has instructions for bfloat16."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def choose_workers(device: torch.device) -> int:
    """Return the number of processes that load images."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    # On a CPU, loading takes a few per cent of training time: more processes would only compete.
    return min(8, cores) if device.type != "cpu" else (2 if cores >= 8 else 0)
