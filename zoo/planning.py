"""From a recipe to all that training needs: data, weights, model, and a plan that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from zoo import plugins
from zoo import weights as zoo_weights
from zoo.backbone import Backbone, Preprocess
from zoo.data.dataset import derive_seed
from zoo.data.demo import demo_splits
from zoo.data.folder import read_splits
from zoo.data.split import Splits
from zoo.decisions import choose_precision, choose_workers, decide_for_demo, decide_rates
from zoo.engine.events import Listener, Note, ignore
from zoo.engine.processes import decide_on_main
from zoo.errors import PluginError, RecipeError, SizeError, TrainingError, WeightsUnavailableError
from zoo.model.build import build_from
from zoo.model.depth import Depths, depths
from zoo.model.device import choose_device
from zoo.model.freeze import Freezing, learns_statistics, plan_freezing, train_mode
from zoo.model.group_plan import GroupPlan, plan_groups
from zoo.model.groups import parameter_settings
from zoo.model.size import needs_resizing, resized
from zoo.recipe import Recipe, change
from zoo.run.folder import check_room, choose_folder


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will happen, before it does.

    Attributes:
        backbone: Full name.
        recipe: As resolved.
        groups: What trains how, from the stem to the head.
        class_names: In label order.
        train_counts: Images per class to learn from.
        val_counts: Images per class held out.
        weights_source: Where the starting weights came from.
        preprocess: How images are prepared.
        device: Where it will compute.
        precision: `fp32`, `bf16` or `fp16`.
        processes: How many train together.
        out: The run folder.
        default_out: Whether zoo chose it, so that another would do.
    """

    backbone: str
    recipe: Recipe
    groups: tuple[GroupPlan, ...]
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    val_counts: tuple[int, ...]
    weights_source: str
    preprocess: Preprocess
    device: str
    precision: str
    processes: int
    out: Path
    default_out: bool


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that training needs, ready to start; nothing is written yet."""

    plan: Plan
    backbone: Backbone
    splits: Splits
    model: nn.Module
    depths: Depths
    freezing: Freezing
    accelerator: Accelerator


def prepare(
    recipe: Recipe, *, out: str | Path | None = None, listen: Listener = ignore
) -> Prepared:
    """Everything up to the first step: what a dry run does. Writes nothing.

    Raises:
        ZooError: As in `finetune`.
    """
    given = recipe
    device = choose_device(recipe.device)
    precision = choose_precision(recipe.precision, device)
    accelerator = _accelerator(device, precision)
    listen = listen if accelerator.is_main_process else ignore
    backbone = plugins.get(recipe.backbone)
    if recipe.backbone != backbone.name:
        listen(Note(text=f"backbone {recipe.backbone} is {backbone.name}"))
    recipe = change(recipe, backbone=backbone.name)
    # A slower process would find the folder made by a faster one.
    folder = decide_on_main(accelerator, lambda: choose_folder(out, recipe))
    recipe = decide_for_demo(recipe, backbone, listen)
    backbone, preprocess = _for_size(backbone, recipe, listen)
    splits = _read_data(recipe, listen)
    recipe, loaded = _load_weights(recipe, backbone, listen)
    recipe = decide_rates(recipe, listen)
    torch.manual_seed(derive_seed(recipe.seed, "model"))
    model = build_from(backbone, len(splits.class_names), loaded, head_init=recipe.head_init)
    layers = depths(model, backbone)
    freezing = plan_freezing(
        model, layers, backbone, freeze=recipe.freeze, unfreeze_epochs=recipe.unfreeze_epochs
    )
    groups = _plan_groups(model, backbone, recipe, layers, freezing)
    try:
        _check_forward(model, backbone, preprocess, len(splits.class_names))
    except TrainingError:
        if given.image_size is not None or preprocess == backbone.preprocess:
            raise
        preprocess = backbone.preprocess
        size = "{} x {}".format(*preprocess.height_width)
        listen(Note(text=f"{backbone.name} can't take {recipe.image_size} pixels: {size} instead"))
        _check_forward(model, backbone, preprocess, len(splits.class_names))
    recipe = change(
        recipe,
        data=None if recipe.data is None else str(Path(recipe.data).expanduser().resolve()),
        image_size=preprocess.size if isinstance(preprocess.size, int) else None,
        device=device.type,
        precision=precision,
        workers=choose_workers(device) if recipe.workers is None else recipe.workers,
    )
    plan = Plan(
        backbone=backbone.name,
        recipe=recipe,
        groups=groups,
        class_names=splits.class_names,
        train_counts=tuple(splits.counts(splits.train)),
        val_counts=tuple(splits.counts(splits.val)),
        weights_source=loaded.source,
        preprocess=preprocess,
        device=str(accelerator.device),
        precision=precision,
        processes=accelerator.num_processes,
        out=folder,
        default_out=out is None,
    )
    check_room(folder, model)
    listen(plan)
    return Prepared(
        plan=plan,
        backbone=backbone,
        splits=splits,
        model=model,
        depths=layers,
        freezing=freezing,
        accelerator=accelerator,
    )


def _check_forward(
    model: nn.Module, backbone: Backbone, preprocess: Preprocess, num_classes: int
) -> None:
    """One empty picture through the model: what can't work is said before training."""
    height, width = preprocess.height_width
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, 3, height, width))
    except Exception as error:
        raise TrainingError(
            f"backbone {backbone.name} can't take {height} x {width} pixels: "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]}; "
            f"try another --image-size, or none"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise PluginError(
            f"{plugins.describe(backbone)} gives {shape} for one image, "
            f"zoo needs logits (1, {num_classes})"
        )


def _for_size(backbone: Backbone, recipe: Recipe, listen: Listener) -> tuple[Backbone, Preprocess]:
    own = backbone.preprocess
    size = recipe.image_size
    if size is None or own.height_width == (size, size):
        return backbone, own
    if not needs_resizing(backbone, size):
        return backbone, replace(own, size=size)
    old = "{} x {}".format(*own.height_width)
    try:
        backbone = resized(backbone, size)
    except SizeError as error:
        raise SizeError(f"{error}; try another --image-size, or leave it out") from error
    text = f"{backbone.name} is built for {size} x {size} pixels instead of {old}"
    if recipe.weights != "none":
        text += "; pretrained position embeddings are resampled"
    listen(Note(text=text))
    return backbone, backbone.preprocess


def _read_data(recipe: Recipe, listen: Listener) -> Splits:
    if recipe.data is None:
        return demo_splits(val_split=recipe.val_split, seed=recipe.seed)
    listen(Note(text=f"reading the images of {recipe.data}"))
    splits = read_splits(
        Path(recipe.data).expanduser(),
        val_split=recipe.val_split,
        seed=recipe.seed,
        strict=recipe.strict,
    )
    for problem in (*splits.notes, *splits.unreadable):
        listen(Note(text=problem, warning=True))
    if splits.unreadable:
        listen(Note(text=f"{len(splits.unreadable)} unreadable images left out", warning=True))
    return splits


def _load_weights(
    recipe: Recipe, backbone: Backbone, listen: Listener
) -> tuple[Recipe, zoo_weights.LoadedWeights]:
    source_suffix = ""
    try:
        loaded = zoo_weights.load(backbone, recipe.weights)
    except WeightsUnavailableError as error:
        if recipe.data is not None:
            raise
        listen(
            Note(
                text=f"RANDOM WEIGHTS: {error}\n"
                f"The demo goes on from RANDOM weights, so it shows that everything runs, "
                f"not what fine-tuning can do.",
                warning=True,
            )
        )
        recipe = change(recipe, weights="none")
        loaded = zoo_weights.load(backbone, "none")
        source_suffix = " (pretrained ones could not be had)"
    for note in loaded.notes:
        listen(Note(text=note, warning=True))
    if recipe.weights not in ("pretrained", "none"):
        recipe = change(recipe, weights=str(Path(recipe.weights).expanduser().resolve()))
    return recipe, replace(loaded, source=loaded.source + source_suffix)


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    options = {
        "cpu": device.type == "cpu",
        "mixed_precision": "no" if precision == "fp32" else precision,
    }
    try:
        return Accelerator(**options)
    except ValueError:
        # An earlier one's state outlives it and refuses another device or precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(**options)


def _plan_groups(
    model: nn.Module, backbone: Backbone, recipe: Recipe, layers: Depths, freezing: Freezing
) -> tuple[GroupPlan, ...]:
    """What trains when and how; the model is put into the mode in which it will end training."""
    settings = parameter_settings(
        model,
        backbone,
        layers,
        lr=recipe.lr,
        head_lr_mult=recipe.head_lr_mult,
        layer_decay=recipe.layer_decay,
        wd_on_norms=recipe.wd_on_norms,
    )
    training = len(layers) - freezing.always
    if recipe.layer_decay != 1 and training < 2:
        raise RecipeError(
            f"layer_decay = {recipe.layer_decay:g} would have no effect: of {backbone.name}'s "
            f"{len(layers)} depths {'only one trains' if training else 'none ever trains'}; "
            f"leave it out, or freeze less"
        )
    train_mode(model, backbone, layers, frozen=freezing.always, batch_norm=recipe.batch_norm)
    if recipe.batch_size == 1 and learns_statistics(model):
        raise TrainingError(
            "batch_size 1 gives batch norm no statistics to learn from; "
            "use a larger --batch-size or --batch-norm frozen"
        )
    return plan_groups(settings, layers, freezing, weight_decay=recipe.weight_decay)
