"""What zoo decides where the user says nothing: said when it is decided, recorded in the recipe."""

from __future__ import annotations

import os
from typing import Any

import torch

from zoo.backbone import Backbone
from zoo.data.demo import IMAGE_SIZE
from zoo.engine.events import Listener, Note
from zoo.errors import TrainingError
from zoo.recipe import Recipe, change

#: What the demo changes of the defaults: mirrored digits are no digits, and they are small.
DEMO = {"hflip": False, "image_size": IMAGE_SIZE}

#: What AdamW changes of the defaults, which are SGD's.
ADAMW = {"lr": 1e-4}

#: What a probe changes of the defaults: its head has nothing to catch up.
PROBED = {"lr": 5e-4, "head_lr_mult": 1.0}
PROBED_ADAMW = {"head_lr_mult": 1.0}

#: Rows from which on a probe needs no augmented views, and how many views it gets at most.
_ROWS_ENOUGH, _MOST_VIEWS = 200, 4

#: What random weights change of the defaults: all has to be learnt, batch-norm statistics too.
FROM_SCRATCH = {"train": "finetune", "batch_norm": "train", "lr": 0.05, "head_lr_mult": 1.0}
FROM_SCRATCH_ADAMW = {**FROM_SCRATCH, "lr": 1e-3}

#: Steps that an epoch should have before a batch is made larger.
_FEWEST_STEPS = 32


def decide_for_demo(recipe: Recipe, backbone: Backbone, listen: Listener) -> Recipe:
    """The demo's settings, where there is no data."""
    if recipe.data is not None:
        return recipe
    listen(
        Note(text="no --data given: this is the demo, on scikit-learn's 1,797 handwritten digits")
    )
    changes = {k: v for k, v in DEMO.items() if k not in recipe.model_fields_set}
    if backbone.preprocess.fixed_size:
        changes.pop("image_size", None)
    return _decide(recipe, changes, "for the demo", listen)


def decide_stages(recipe: Recipe, train_images: int, listen: Listener) -> Recipe:
    """What a probe learns from, what stands still under it, and how fast its head trains after."""
    if recipe.train != "finetune" and train_images < _ROWS_ENOUGH:
        views = min(_MOST_VIEWS, _ROWS_ENOUGH // train_images)
        recipe = _decide(recipe, {"views": views}, f"with {train_images} images", listen)
    recipe = change(recipe, views=recipe.views or 0)
    if recipe.train == "finetune":
        return recipe
    if recipe.head_init != Recipe.model_fields["head_init"].default:
        text = f"head_init = {recipe.head_init} has no effect: the probe's weights become the head"
        listen(Note(text=text))
    if recipe.train == "probe":
        return change(recipe, freeze="backbone")
    changes = PROBED if recipe.optimizer == "sgd" else PROBED_ADAMW
    return _decide(recipe, changes, "after a probe", listen)


def decide_rates(recipe: Recipe, listen: Listener) -> Recipe:
    """Learning rates, and batch norm, for random weights and for AdamW."""
    if recipe.weights == "none":
        changes = FROM_SCRATCH if recipe.optimizer == "sgd" else FROM_SCRATCH_ADAMW
        return _decide(recipe, changes, "from random weights", listen)
    if recipe.optimizer == "adamw":
        return _decide(recipe, ADAMW, "with AdamW", listen)
    return recipe


def choose_batch_size(train_images: int, device: torch.device) -> int:
    """Images per step: a CPU is as fast with 16 as with more, in half the memory.

    A GPU gets up to 64, where an epoch has steps enough even so.
    """
    largest = 16 if device.type == "cpu" else 64
    while largest > 16 and train_images < largest * _FEWEST_STEPS:
        largest //= 2
    return largest


def choose_micro_batch(recipe: Recipe, device: torch.device) -> int | None:
    """Images of a step whose gradients are computed at a time; None: all of them.

    A CPU is as fast with 8 as with more, in less memory. Batch norms that learn statistics see what
    is computed at a time alone, so there it is the whole batch.
    """
    return 8 if device.type == "cpu" and recipe.batch_norm == "frozen" else None


def choose_precision(wanted: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16`; `auto` is bf16 on a GPU that has it.

    Raises:
        TrainingError: The device can't compute in it.
    """
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else "fp32"
    if wanted == "fp16" and device.type == "cpu":
        raise TrainingError("precision fp16 needs a GPU; on a CPU use fp32 or bf16")
    return wanted


def warn_of_slow_precision(precision: str, device: torch.device, listen: Listener) -> None:
    """Say so where a CPU has to imitate the precision."""
    if precision == "bf16" and device.type == "cpu" and not _has_bf16():
        listen(
            Note(
                text="this CPU has no bfloat16: torch computes it by other means, up to hundreds "
                "of times more slowly than --precision fp32",
                warning=True,
            )
        )


def _has_bf16() -> bool:
    """Whether this CPU computes in bfloat16 itself."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def choose_workers(device: torch.device) -> int:
    """How many processes load images."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    # While a CPU trains, loading is a few per cent of its time: more processes would only contend.
    return min(8, cores) if device.type != "cpu" else (2 if cores >= 8 else 0)


def _decide(recipe: Recipe, changes: dict[str, Any], why: str, listen: Listener) -> Recipe:
    changes = {k: v for k, v in changes.items() if k not in recipe.model_fields_set}
    if changes:
        listed = ", ".join(f"{key} = {value}" for key, value in changes.items())
        listen(Note(text=f"{why}: {listed} (where you say nothing else)"))
    return change(recipe, **changes)
