"""What stands still while the rest trains: frozen means parameters and buffers alike."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.backbone import Backbone
from zoo.model.head import head_leaves, in_head

Freeze = Literal["none", "backbone"]
BatchNorm = Literal["frozen", "train"]


def freeze_parameters(model: nn.Module, backbone: Backbone, freeze: Freeze) -> None:
    """Let no parameter outside the head train, for `freeze="backbone"`."""
    if freeze == "backbone":
        for name, parameter in model.named_parameters():
            if not in_head(name, backbone.head_paths):
                parameter.requires_grad_(False)


def train_mode(
    model: nn.Module, backbone: Backbone, *, freeze: Freeze, batch_norm: BatchNorm
) -> None:
    """Put the model into train mode but for what must stand still.

    A frozen backbone is in eval mode: its batch-norm statistics don't move and its dropout and
    stochastic depth are off, so its features are the ones that prediction will see. With
    `batch_norm="frozen"` the statistics of every batch norm stand still though its weight and bias
    train: small batches give statistics too poor to replace pretrained ones.
    """
    if freeze == "backbone":
        model.eval()
        for leaf in head_leaves(model, backbone).values():
            leaf.train()
        return
    model.train()
    if batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer keeps batch statistics."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())
