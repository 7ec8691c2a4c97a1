"""Checks of a loss, on the logits and targets of a small batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo import plugins
from zoo.hookspecs import Factory
from zoo.testing.subject import CheckFailed, CheckSkipped, Kind
from zoo.training.custom import Loss

#: Images and classes of the batch.
IMAGES, CLASSES = 6, 4


@dataclass
class LossSubject:
    """A loss under test."""

    kind: ClassVar[Kind] = "loss"
    shapes_only: ClassVar[bool] = False

    name: str
    factory: Factory

    @cached_property
    def loss(self) -> Loss:
        """The loss, as a run creates it."""
        loss: Loss = made(self.factory)
        return loss

    @cached_property
    def targets(self) -> Tensor:
        """The first kind of targets that the loss takes.

        Raises:
            CheckFailed: It takes none.
        """
        loss, errors = self.loss, []
        for what, targets in _targets().items():
            try:
                loss(_logits(), targets)
            except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
                errors.append(f"for {what}, {plugins.explain(error)}")
            else:
                return targets
        raise CheckFailed(f"it raises {'; '.join(errors)}: take the targets of one task at least")

    def of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch.

        Raises:
            CheckFailed: It is not a tensor ().
        """
        found: object = self.loss(logits, targets)
        if not isinstance(found, Tensor) or found.ndim:
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise CheckFailed(f"it gives {what}: return the mean over the images, a tensor ()")
        return found


def made(factory: object) -> Callable[..., Any]:
    """Return what a factory makes.

    Raises:
        CheckFailed: It is no function.
        CheckSkipped: A library is not installed.
    """
    if not isinstance(factory, Factory):
        raise CheckFailed(f"it is {factory!r}: declare a zoo.Factory")
    try:
        found: object = factory.make()
    except ModuleNotFoundError as error:
        raise CheckSkipped(f"it needs {error.name}, which is not installed") from error
    if not callable(found):
        raise CheckFailed(f"`make` gives a {type(found).__name__}: return a function")
    return found


def _logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(IMAGES, CLASSES, generator=generator).requires_grad_()


def _targets() -> dict[str, Tensor]:
    """Return targets by the task that has them."""
    labels = torch.arange(IMAGES) % CLASSES
    one_hot = nn.functional.one_hot(labels, CLASSES).float()
    several = one_hot.clone()
    several[:, 0] = 1
    return {
        "class indices (N,) int64": labels,
        "shares of classes (N, classes) float32, as mixup has them": 0.7 * one_hot
        + 0.3 * one_hot.flip(0),
        "several labels (N, classes) float32": several,
    }


def check_loss_is_made(subject: LossSubject) -> None:
    """`make`, called without arguments, gives a function without parameters to train."""
    loss = subject.loss
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise CheckFailed("it has parameters, which nothing would train: register buffers instead")


def check_loss_is_one_number(subject: LossSubject) -> None:
    """For logits and the targets of a task, it gives a tensor () that is finite."""
    found = subject.of(_logits(), subject.targets)
    if not found.isfinite():
        raise CheckFailed(f"it gives {found.item()} for logits between -3 and 3")


def check_gradient_reaches_the_logits(subject: LossSubject) -> None:
    """It has a gradient for the logits, which is finite and not 0."""
    logits = _logits()
    found = subject.of(logits, subject.targets)
    if not found.requires_grad:
        raise CheckFailed("it does not depend on the logits: compute it by functions of torch")
    (gradient,) = torch.autograd.grad(found, logits, allow_unused=True)
    if gradient is None or not gradient.isfinite().all() or not gradient.any():
        raise CheckFailed("its gradient for the logits is 0, or not finite")


def check_loss_is_a_mean(subject: LossSubject) -> None:
    """Of a batch with each image twice, it is the same: zoo divides batches, and weights parts."""
    logits, targets = _logits(), subject.targets
    once = subject.of(logits, targets)
    twice = subject.of(torch.cat([logits, logits]), torch.cat([targets, targets]))
    if not torch.allclose(once, twice, rtol=1e-4, atol=1e-6):
        raise CheckFailed(
            f"with each image twice it is {twice.item():.6g} instead of {once.item():.6g}: return "
            f"the mean over the images, not their sum"
        )


def check_loss_keeps_nothing(subject: LossSubject) -> None:
    """It is the same for the same logits, however often it was called: a run may be resumed."""
    first, *later = (subject.of(_logits(), subject.targets) for _ in range(3))
    if any(not torch.equal(first, each) for each in later):
        raise CheckFailed("it is another number at each call: keep no state, and draw nothing")
