"""Freeze parameters and buffers of a part of the backbone."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.backbone import Backbone
from zoo.errors import RecipeError
from zoo.io.text import count, listed
from zoo.models.depth import Depths, require_stages
from zoo.models.head import head_leaves
from zoo.models.replay import keep_modes

BatchNorm = Literal["frozen", "train"]


@dataclass(frozen=True, kw_only=True)
class Freezing:
    """Number of depths of the backbone, counted from the stem, that are frozen in each epoch.

    Attributes:
        steps: (epoch, depths frozen from its start), in order from epoch 1; depths decrease.
    """

    steps: tuple[tuple[int, int], ...]

    def frozen(self, epoch: int) -> int:
        """Return how many depths are frozen in an epoch (counted from 1)."""
        return [frozen for start, frozen in self.steps if start <= epoch][-1]

    @property
    def always(self) -> int:
        """Number of depths that are never trained."""
        return self.steps[-1][1]

    def trains_from(self, depth: float) -> int | None:
        """Return the first epoch in which a depth is trained, or None if it never is."""
        return next((start for start, frozen in self.steps if depth >= frozen), None)


def plan_freezing(
    model: nn.Module,
    depths: Depths,
    backbone: Backbone,
    *,
    freeze: int | str = "none",
    unfreeze_epochs: tuple[int, ...] = (),
) -> Freezing:
    """Determine from the recipe which depths are frozen in which epoch.

    Gradual unfreezing starts with the deepest part, as in Howard and Ruder (2018).

    Args:
        model: The model, with its head replaced.
        depths: The depths of the model.
        backbone: The declaration of the backbone.
        freeze: `none`, `backbone`, a number of depths counted from the stem, or a path: all depths
            up to and including the last one that is the path or lies below it.
        unfreeze_epochs: Epochs (from 2 on) at whose start a part is unfrozen. The frozen depths are
            divided into as many contiguous parts of nearly equal size, unfrozen deepest first.

    Raises:
        RecipeError: If that stage or depth doesn't exist, or epochs outnumber frozen depths.
        PluginError: If the backbone's stages are needed but not declared or incomplete.
    """
    frozen = _frozen_depths(model, depths, backbone, freeze)
    parts = len(unfreeze_epochs)
    if parts > 1:
        require_stages(model, depths, backbone, f"unfreeze_epoch = {list(unfreeze_epochs)}")
    if parts > max(frozen, 1):
        raise RecipeError(
            f"unfreeze_epoch = {list(unfreeze_epochs)}: {count(parts, 'epoch')}, but "
            f"freeze = {freeze!r} freezes only {count(frozen, 'depth')} of {backbone.name}"
        )
    later = (
        (epoch, frozen * (parts - n) // parts) for n, epoch in enumerate(unfreeze_epochs, start=1)
    )
    return Freezing(steps=((1, frozen), *later))


def freeze_parameters(
    parameters: Iterable[tuple[str, nn.Parameter]], depths: Depths, frozen: int
) -> None:
    """Set `requires_grad` of named parameters: False in the first `frozen` depths, else True.

    A later call with fewer depths unfreezes. Pass only parameters that may be trained at some time.
    """
    for name, parameter in parameters:
        parameter.requires_grad_(depths.of.get(name, math.inf) >= frozen)


def train_mode(
    model: nn.Module, backbone: Backbone, depths: Depths, *, frozen: int, batch_norm: BatchNorm
) -> None:
    """Set the model to train mode, except for its frozen part.

    The first `frozen` depths are in eval mode: batch-norm statistics are not updated, and dropout
    and stochastic depth are off, so that frozen features are the same as in prediction. A module is
    in eval mode if all of its parameters and buffers are frozen; a module without any has the mode
    of the preceding one. With `batch_norm="frozen"`, batch-norm statistics are fixed although
    weight and bias are trained: those of small batches are too poor to replace pretrained ones.
    """
    if frozen == len(depths):
        model.eval()
        for leaf in head_leaves(model, backbone).values():
            leaf.train()
        return
    model.train()
    for module in _still(model, depths, frozen) if frozen else ():
        module.eval()
    if batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


@contextmanager
def temporarily_frozen(
    model: nn.Module, backbone: Backbone, depths: Depths, *, frozen: int, batch_norm: BatchNorm
) -> Iterator[None]:
    """Freeze parameters and modes of the first `frozen` depths, and restore them on exit."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with keep_modes(model):
        try:
            freeze_parameters(trained, depths, frozen)
            train_mode(model, backbone, depths, frozen=frozen, batch_norm=batch_norm)
            yield
        finally:
            for _, parameter in trained:
                parameter.requires_grad_(True)


def learns_statistics(model: nn.Module) -> bool:
    """Return whether any batch norm is in train mode."""
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())


def _still(model: nn.Module, depths: Depths, frozen: int) -> list[nn.Module]:
    """Return the modules that lie entirely in the first `frozen` depths."""
    # By identity: the first name of a tied tensor counts, as for its parameter group.
    depth_of = {
        id(tensor): depths.of.get(name, math.inf)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }

    def deepest(module: nn.Module, recurse: bool) -> float | None:
        tensors = (*module.parameters(recurse), *module.buffers(recurse))
        return max((depth_of[id(tensor)] for tensor in tensors), default=None)

    still = []
    before = 0.0
    for module in model.modules():
        inside = deepest(module, True)
        if (before if inside is None else inside) < frozen:
            still.append(module)
        own = deepest(module, False)
        before = before if own is None else own
    return still


def _frozen_depths(model: nn.Module, depths: Depths, backbone: Backbone, freeze: int | str) -> int:
    if freeze == "none":
        return 0
    if freeze == "backbone":
        return len(depths)
    require_stages(model, depths, backbone, f"freeze = {freeze!r}")
    if isinstance(freeze, int):
        if freeze > len(depths):
            raise RecipeError(
                f"freeze = {freeze}: {backbone.name} has only {count(len(depths), 'depth')}, "
                f'{depths.label(0)} to {depths.label(len(depths) - 1)}; "backbone" freezes them all'
            )
        return freeze
    found = [
        depth
        for depth, paths in enumerate(depths.stages)
        if any(f"{path}.".startswith(f"{freeze}.") for path in paths)
    ]
    if not found:
        known = _nearest_first(freeze, depths)
        raise RecipeError(
            f"freeze = {freeze!r}: {backbone.name} has no such stage; "
            f"there are, the most alike first: {listed(known, 12)}"
        )
    return found[-1] + 1


def _nearest_first(freeze: str, depths: Depths) -> list[str]:
    """Return all possible values of `freeze`, the most similar first."""
    paths = [path.split(".") for paths in depths.stages for path in paths]
    known = [".".join(parts[: n + 1]) for parts in paths for n in range(len(parts))]
    return sorted(
        dict.fromkeys(("none", "backbone", *known)),
        key=lambda path: -difflib.SequenceMatcher(None, freeze, path).ratio(),
    )
