"""Outputs of the network that can be computed once: probe features and frozen activations."""

from __future__ import annotations

from torch import nn

from zoo.backbone import Backbone, Preprocess
from zoo.errors import BoundaryError, TrainingError
from zoo.events import Listener, Note
from zoo.features.extract import probe_boundary
from zoo.models.boundary import find_boundary
from zoo.models.depth import Depths
from zoo.models.freeze import Freezing, temporarily_frozen
from zoo.models.replay import Boundary
from zoo.planning.config import Resolver
from zoo.recipe import Recipe


def plan_probe(
    model: nn.Module,
    backbone: Backbone,
    resolver: Resolver,
    depths: Depths,
    preprocess: Preprocess,
    listen: Listener,
) -> Boundary | None:
    """Return the boundary that gives the probe's features; None without a probe.

    Raises:
        TrainingError: The user set `train` to use a probe, but the head does not allow one.
    """
    if resolver.recipe.train == "finetune":
        return None
    try:
        return probe_boundary(model, backbone, depths, preprocess.height_width)
    except BoundaryError as error:
        if resolver.asked("train"):
            raise TrainingError(error.text, hint="use `train=finetune`") from error
        listen(Note(text=f"{error}: train = finetune"))
        resolver.replace("the head allows no probe", train="finetune")
        return None


def plan_activations(
    model: nn.Module,
    backbone: Backbone,
    recipe: Recipe,
    depths: Depths,
    freezing: Freezing,
    preprocess: Preprocess,
    processes: int,
    listen: Listener,
) -> Boundary | None:
    """Return the boundary at which activations of a part that is always frozen are cached."""
    if not freezing.always or recipe.train == "probe" or not recipe.cache_size:
        return None
    if processes > 1:
        listen(Note(text="activations are not cached: several processes train together"))
        return None
    if recipe.mixup or recipe.cutmix:
        listen(Note(text="activations are not cached: each batch of images is mixed"))
        return None
    if recipe.teacher is not None:
        listen(Note(text="activations are not cached: the teacher sees the images"))
        return None
    frozen = freezing.always
    with temporarily_frozen(model, backbone, depths, frozen=frozen, batch_norm=recipe.batch_norm):
        try:
            return find_boundary(model, backbone, image_size=preprocess.height_width)
        except BoundaryError as error:
            listen(Note(text=f"activations are not cached: {error}"))
            return None
