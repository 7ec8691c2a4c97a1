"""The average of the weights after the last epochs (stochastic weight averaging).

It often lies in a flatter part of the loss than any of them, and costs nothing in prediction
(Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018;
Wortsman et al., "Model soups", ICML 2022).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.data.dataset import raising
from zoo.models.freeze import train_mode
from zoo.recipe import Recipe
from zoo.training.ema import copied, weights_of
from zoo.training.gradients import number_of_parts
from zoo.training.setup import Loop


def is_averaged(epoch: int, recipe: Recipe) -> bool:
    """Return whether the weights after this epoch are part of the average."""
    return epoch > recipe.epochs - recipe.average_epochs


@torch.no_grad()
def with_epoch(average: Mapping[str, Tensor], model: nn.Module, epochs: int) -> dict[str, Tensor]:
    """Return the average of a number of epochs, the last of which is the model's.

    Args:
        average: That of the epochs before, by name in the state dict; not used if `epochs` is 1.
        model: The network, without adapters.
        epochs: Number of epochs, with this one.
    """
    state = copied(model)
    if epochs == 1:
        return state
    return {
        name: torch.lerp(average[name].to(tensor), tensor, 1 / epochs)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in state.items()
    }


def with_statistics(loop: Loop, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return averaged weights with the batch-norm statistics that these weights give.

    The average of the statistics is not the one of the averaged network's activations. Those that
    the recipe has fixed don't change.

    Args:
        loop: Its model is the network without adapters; it is left as it is, in eval mode.
        average: State dict of the network.
    """
    setup, model = loop.setup, loop.setup.model
    train_mode(
        model,
        setup.backbone,
        setup.depths,
        frozen=loop.frozen,
        batch_norm=setup.recipe.batch_norm,
    )
    learning = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    learning = [module for module in learning if module.track_running_stats]
    model.eval()
    if not learning:
        return dict(average)
    momenta = [module.momentum for module in learning]
    with weights_of(model, average):
        try:
            for module in learning:
                module.reset_running_stats()
                # The mean over all batches.
                module.momentum = None
                module.train()
            _pass_train_images(loop)
        finally:
            for module, momentum in zip(learning, momenta, strict=True):
                module.momentum = momentum
                module.eval()
        _share(learning, setup.accelerator)
        return copied(model)


@torch.no_grad()
def _pass_train_images(loop: Loop) -> None:
    """Pass the train images of the epoch through the network, in as many parts as in training."""
    for inputs, _ in raising(loop.batches):
        parts = number_of_parts(len(inputs), loop.state.micro_batch or len(inputs), True)
        for part in inputs.tensor_split(parts):
            loop.setup.loaders.outputs(loop.validated, part)


def _share(modules: list[_BatchNorm], accelerator: Accelerator) -> None:
    """Give all processes the statistics of the main one, as those of training are its own."""
    if accelerator.num_processes > 1:
        for module in modules:
            for buffer in module.buffers():
                buffer.copy_(broadcast(buffer.clone()))
