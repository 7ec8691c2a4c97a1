"""Gradients of a training step, computed in parts if memory is too small for the whole batch."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zoo.data.dataset import derive_seed
from zoo.errors import TrainingError
from zoo.events import Listener, Note
from zoo.io.text import count
from zoo.machine.memory import disable_onednn_after, free_memory, is_out_of_memory, out_of_memory_as
from zoo.models.freeze import learns_statistics
from zoo.tasks import Criterion

#: Maps (output of the network, targets) to (logits of the main head, mean loss of all heads); the
#: mean is weighted by the class weights, if any.
LossOf = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Objective that a step minimises.

    Attributes:
        outputs_of: Maps inputs (n, ...) to the model's output.
        loss_of: Maps that output and targets to logits and loss.
        criterion: Defines the weight of each sample, and which predictions are correct.
        class_weights: (classes,) on the device, as used by `loss_of`; or None.
    """

    outputs_of: Callable[[Tensor], Any]
    loss_of: LossOf
    criterion: Criterion
    class_weights: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class StepSums:
    """Results of a step; the gradients are in the parameters.

    Attributes:
        loss: Loss () of the whole batch, as if it had been computed at once.
        correct: Number () of images that were predicted correctly.
        micro_batch: Images at a time in the next step; None: the whole batch.
    """

    loss: Tensor
    correct: Tensor
    micro_batch: int | None


def step_gradients(
    model: nn.Module,
    objective: Objective,
    batch: Tensor,
    targets: Tensor,
    *,
    seed: int,
    micro_batch: int | None,
    accelerator: Accelerator,
    listen: Listener,
) -> StepSums:
    """Compute a step's gradients; if memory runs out, repeat it in halves until it suffices.

    The gradients of the parts add up to those of the whole batch (gradient accumulation), because
    the mean loss of each part is weighted by its share of the batch's class weights. Only the
    statistics of trained batch norms and random numbers depend on the parts: a step in one part
    draws from `seed`, each of several parts from (seed, part).

    Args:
        model: In the mode used for training, without gradients; may be wrapped.
        objective: What to minimise.
        batch: Inputs (N, ...).
        targets: (N, ...) on the device.
        seed: Seed of this step and process.
        micro_batch: Images at a time, as returned by the previous step.
        accelerator: Averages gradients over processes, once per step.
        listen: Receives a `Note` if memory runs out.

    Raises:
        TrainingError: Memory is too small for the smallest part.
    """
    device, images = accelerator.device, len(targets)
    if isinstance(model, DistributedDataParallel):
        # Otherwise all processes would need the same number of forward passes. Only the statistics
        # of the main process are saved, and they depend on its own forward passes alone.
        model.broadcast_buffers = False
    statistics = learns_statistics(model)
    # A failed attempt may already have updated them.
    before = [buffer.clone() for buffer in model.buffers()] if statistics else []
    parts = number_of_parts(images, micro_batch or images, statistics)
    while True:
        shares = _shares(targets, objective, parts)
        try:
            loss, correct = _accumulate(model, objective, batch, targets, shares, seed, accelerator)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            tried = -(-images // parts)
            micro_batch = (tried + 1) // 2
            more = number_of_parts(images, micro_batch, statistics)
            if more == parts:
                raise _too_small(device, tried, statistics) from error
            left = disable_onednn_after(error)
        else:
            return StepSums(loss=loss, correct=correct, micro_batch=micro_batch)
        parts = more
        model.zero_grad(set_to_none=True)
        if statistics:
            with torch.no_grad():
                for buffer, value in zip(model.buffers(), before, strict=True):
                    buffer.copy_(value)
        free_memory()
        text = _halved(device, tried, micro_batch, statistics) + left
        if accelerator.is_main_process:
            listen(Note(text=text, warning=True))
        else:
            # Other processes have no listener, and their memory may differ.
            warnings.warn(text, stacklevel=2)


def number_of_parts(images: int, micro_batch: int, statistics: bool) -> int:
    """Return the number of parts of a batch; batch statistics need two images in each."""
    return max(1, min(-(-images // micro_batch), images // 2 if statistics else images))


def _shares(targets: Tensor, objective: Objective, parts: int) -> list[Tensor | float]:
    """Return the share of each part in the mean over the batch."""
    if objective.class_weights is None or parts == 1:
        return [len(piece) / len(targets) for piece in targets.tensor_split(parts)]
    weights = objective.criterion.weights(targets, objective.class_weights)
    return [piece.sum() / weights.sum() for piece in weights.tensor_split(parts)]


def _accumulate(
    model: nn.Module,
    objective: Objective,
    batch: Tensor,
    targets: Tensor,
    shares: list[Tensor | float],
    seed: int,
    accelerator: Accelerator,
) -> tuple[Tensor, Tensor]:
    """Accumulate the gradients of all parts; returns (loss, correct predictions) of the batch."""
    parts, device = len(shares), accelerator.device
    losses, correct = [], []
    pieces = zip(batch.tensor_split(parts), targets.tensor_split(parts), shares, strict=True)
    for n, (piece, piece_targets, share) in enumerate(pieces, start=1):
        _seed(seed if parts == 1 else derive_seed(seed, "part", n))
        last = n == parts
        with nullcontext() if last else accelerator.no_sync(model):
            outputs = objective.outputs_of(piece)
            # A process can't repeat alone what it has begun to average with the others.
            together = last and accelerator.num_processes > 1
            with _out_of_memory_together(device) if together else nullcontext():
                logits, loss = objective.loss_of(outputs, piece_targets)
                if parts > 1:
                    loss = loss * share
                accelerator.backward(loss)
        losses.append(loss.detach())
        correct.append(objective.criterion.correct(logits.detach(), piece_targets).sum())
        # Otherwise they would occupy memory during the next part.
        del outputs, logits, loss
    return torch.stack(losses).sum(), torch.stack(correct).sum()


def _seed(seed: int) -> None:
    """Seed all generators that a step may use, so that no random state has to be saved."""
    torch.manual_seed(seed)
    # Networks of torchvision and timm use torch's generator only; a plugin's may use others.
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _out_of_memory_together(device: torch.device) -> AbstractContextManager[None]:
    return out_of_memory_as(
        f"{device} ran out of memory while processes averaged their gradients",
        hint="try a smaller `batch_size` or `image_size`",
    )


def _too_small(device: torch.device, images: int, statistics: bool) -> TrainingError:
    least = f"{count(images, 'image')} at a time"
    frozen = "`batch_norm=frozen`, " if statistics else ""
    return TrainingError(
        f"{device} has too little memory to train on {least}",
        hint=f"try {frozen}a smaller `image_size`, a smaller backbone or `freeze=backbone`",
    )


def _halved(device: torch.device, tried: int, micro_batch: int, statistics: bool) -> str:
    of_these = "; batch-norm statistics are of these alone" if statistics else ""
    return (
        f"{device} ran out of memory in training on {count(tried, 'image')} at a time: from now on "
        f"{micro_batch} at a time, whose gradients are added up to the same steps as before, so "
        f"that results stay comparable{of_these}"
    )
