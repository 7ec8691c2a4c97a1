"""Checks before training: input size, parameter groups, batch size."""

from __future__ import annotations

import torch
from torch import nn

from zoo import plugins
from zoo.backbone import Backbone, Preprocess
from zoo.errors import PluginError, RecipeError, TrainingError
from zoo.events import Listener, Note
from zoo.io.text import count
from zoo.models.depth import Depths
from zoo.models.freeze import Freezing, learns_statistics, train_mode
from zoo.models.group_plan import GroupPlan, plan_groups
from zoo.models.groups import Setting, parameter_settings
from zoo.recipe import Recipe
from zoo.training.adapters import Adapters, attached


def check_forward(
    model: nn.Module, backbone: Backbone, preprocess: Preprocess, num_classes: int
) -> None:
    """Pass an empty image through the model, to find errors before training."""
    height, width = preprocess.height_width
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, preprocess.channels, height, width))
    except Exception as error:
        raise TrainingError(
            f"backbone {backbone.name} can't take {height} x {width} pixels: "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            hint="try another `image_size`, or none",
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise PluginError(
            f"{plugins.describe(backbone)} gives {shape} for one image, "
            f"zoo needs logits (1, {num_classes})"
        )


def plan_what_trains(
    model: nn.Module,
    backbone: Backbone,
    recipe: Recipe,
    layers: Depths,
    freezing: Freezing,
    adapters: Adapters | None,
    processes: int,
    listen: Listener,
) -> tuple[tuple[GroupPlan, ...], list[Setting]]:
    """Plan the parameter groups; the model is put into the train mode of the last epoch.

    `listen` receives a `Note` on how many parameters train beside adapters.

    Returns:
        The rows of the plan, and the settings of each parameter, from which the optimizer's groups
        are made.
    """
    with attached(adapters):
        settings = parameter_settings(
            model,
            backbone,
            layers if adapters is None else adapters.depths,
            lr=recipe.lr,
            head_lr_mult=recipe.head_lr_mult,
            layer_decay=recipe.layer_decay,
            wd_on_norms=recipe.wd_on_norms,
        )
        groups = plan_groups(settings, layers, freezing, weight_decay=recipe.weight_decay)
    if adapters is not None:
        trained = sum(group.parameters for group in groups if not group.frozen)
        total = sum(parameter.numel() for parameter in model.parameters())
        text = (
            f"LoRA of rank {recipe.lora_rank}, alpha {recipe.lora_alpha:g}, on "
            f"{count(len(adapters.layers), 'layer')}: {trained:,} of {total:,} parameters train"
        )
        listen(Note(text=text))
    training = len(layers) - freezing.always
    if recipe.layer_decay != 1 and training < 2:
        raise RecipeError(
            f"layer_decay = {recipe.layer_decay:g} would have no effect: of {backbone.name}'s "
            f"{count(len(layers), 'depth')}, "
            f"{'only one trains' if training else 'none ever trains'}; leave it out, or freeze less"
        )
    train_mode(model, backbone, layers, frozen=freezing.always, batch_norm=recipe.batch_norm)
    if recipe.step_images(processes) == 1 and learns_statistics(model):
        raise TrainingError(
            "one image per step and process gives batch norm no statistics to learn from",
            hint="use a larger `batch_size` (or `global_batch`), or `batch_norm=frozen`",
        )
    return groups, settings
