"""What of a training goes into a checkpoint, and how it goes on from one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.errors import RunError
from zoo.events import EpochEnd
from zoo.recipe import Recipe
from zoo.training.state import TrainingState

_MODEL, _OPTIMIZER, _ORIGIN, _AVERAGE = "model/", "optimizer/", "origin/", "average/"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A training at one moment.

    Random states are no part of it: what is drawn is a function of the run's seed and of the step
    (dropout), or of the epoch and the image (order, augmentation).

    Attributes:
        tensors: `model/NAME` of its state dict, `optimizer/PARAMETER/KEY`, and `average/NAME` of
            the moving average, if there is one. They are not copies.
        state: Where training is.
        scaler: Of mixed precision in fp16; empty without.
        origin: The head that fine-tuning began with, by name, where a probe gave it; else empty.
    """

    tensors: Mapping[str, Tensor]
    state: TrainingState
    scaler: Mapping[str, Any]
    origin: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def to_tensors(self) -> dict[str, Tensor]:
        """All tensors by one name each, as `from_parts` takes them."""
        return {**self.tensors, **{f"{_ORIGIN}{name}": t for name, t in self.origin.items()}}

    def about(self) -> dict[str, Any]:
        """All but the tensors, JSON-ready."""
        return {"training": dataclasses.asdict(self.state), "scaler": dict(self.scaler)}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Snapshot:
        """As `about` gave it.

        Raises:
            RunError: It is no training's.
        """
        try:
            state = TrainingState(**about["training"])
            origin = {n.removeprefix(_ORIGIN): t for n, t in tensors.items() if _of_origin(n)}
            own = {name: tensor for name, tensor in tensors.items() if not _of_origin(name)}
            return cls(tensors=own, state=state, scaler=about["scaler"], origin=origin)
        except (KeyError, TypeError) as error:
            raise RunError(
                f"the checkpoint's training state can't be understood: {error}"
            ) from error

    @property
    def model(self) -> dict[str, Tensor]:
        """The state dict of the model."""
        return self._named(_MODEL)

    @property
    def average(self) -> dict[str, Tensor]:
        """The moving average of the state dict; empty without one."""
        return self._named(_AVERAGE)

    @property
    def validated(self) -> dict[str, Tensor]:
        """The state dict that validation measures: the average, if there is one."""
        return self.average or self.model

    def _named(self, prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


#: Keeps a snapshot, with the end of an epoch if it is one; called in every process.
Save = Callable[[Snapshot, EpochEnd | None], None]


def take(
    model: nn.Module,
    state: TrainingState,
    optimizer: torch.optim.Optimizer | None = None,
    accelerator: Accelerator | None = None,
    average: Mapping[str, Tensor] | None = None,
) -> Snapshot:
    """A snapshot of a bare model and, once there is one, of its optimizer (bare or prepared)."""
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in model.state_dict().items()}
    tensors.update({f"{_AVERAGE}{name}": tensor for name, tensor in (average or {}).items()})
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"{_OPTIMIZER}{name}/{key}"] = torch.as_tensor(value)
    scaler = getattr(accelerator, "scaler", None)
    return Snapshot(
        tensors=tensors, state=state, scaler={} if scaler is None else scaler.state_dict()
    )


def check_fits(snapshot: Snapshot, model: nn.Module) -> None:
    """See that a snapshot is one of this model, which may lie on the meta device.

    Raises:
        RunError: It is another model's.
    """
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    given = {name: tensor.shape for name, tensor in snapshot.model.items()}
    differing = {name for name, _ in own.items() ^ given.items()}
    for other in (snapshot.origin, snapshot.average):
        differing |= {n for n, tensor in other.items() if own.get(n) != tensor.shape}
    parameters = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, tensor in snapshot.tensors.items():
        if not name.startswith((_MODEL, _AVERAGE)):
            parameter, _, _ = name.removeprefix(_OPTIMIZER).rpartition("/")
            if parameter not in parameters or tensor.shape not in (parameters[parameter], ()):
                differing.add(name)
    if differing:
        raise RunError(f"the checkpoint is another model's: {sorted(differing)[0]} differs")


@torch.no_grad()
def restore(
    snapshot: Snapshot,
    model: nn.Module,
    state: TrainingState,
    optimizer: torch.optim.Optimizer | None = None,
    accelerator: Accelerator | None = None,
) -> None:
    """Put a snapshot back, in place; each tensor keeps its device and layout.

    Raises:
        RunError: It is another model's.
    """
    check_fits(snapshot, model)
    load_state(model, snapshot.model)
    for field in dataclasses.fields(TrainingState):
        setattr(state, field.name, getattr(snapshot.state, field.name))
    # With another number of processes there is nothing better than the main one's.
    if accelerator is not None and len(state.micro_batches) == accelerator.num_processes:
        state.micro_batch = state.micro_batches[accelerator.process_index]
    if optimizer is not None:
        parameters = dict(model.named_parameters())
        optimizer.state.clear()
        for name, tensor in snapshot.tensors.items():
            if name.startswith(_OPTIMIZER):
                parameter, _, key = name.removeprefix(_OPTIMIZER).rpartition("/")
                optimizer.state[parameters[parameter]][key] = _like(parameters[parameter], tensor)
    scaler = getattr(accelerator, "scaler", None)
    if scaler is not None and snapshot.scaler:
        scaler.load_state_dict(dict(snapshot.scaler))


@torch.no_grad()
def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a state dict into a model in place; each tensor keeps its device and layout."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(state[name])


def _of_origin(name: str) -> bool:
    return name.startswith(_ORIGIN)


def is_finite(model: nn.Module) -> bool:
    """Whether a model's parameters and buffers are numbers throughout."""
    floats = [t for t in model.state_dict().values() if t.is_floating_point()]
    return not floats or bool(torch.stack([t.isfinite().all() for t in floats]).all())


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    if tensor.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
    # A count of steps: fused kernels want it where the parameter is.
    return tensor.to(parameter.device).clone()


@dataclass
class Clock:
    """When the next checkpoint within an epoch is due.

    Attributes:
        steps: After every so many steps; None: by time alone.
        seconds: After so many seconds; None: by steps alone.
        last: When the last one was written, by `time.monotonic`.
    """

    steps: int | None
    seconds: float | None
    last: float = dataclasses.field(default_factory=time.monotonic)

    @classmethod
    def of(cls, recipe: Recipe) -> Clock:
        """As the recipe says."""
        every = recipe.checkpoint_every
        if isinstance(every, int):
            return cls(steps=every, seconds=None)
        return cls(steps=None, seconds=recipe.checkpoint_seconds)

    def by_steps(self, step: int) -> bool:
        """Whether one is due after this step, the same in every process."""
        return self.steps is not None and step % self.steps == 0

    def by_time(self) -> bool:
        """Whether one is due by now."""
        return self.seconds is not None and time.monotonic() - self.last >= self.seconds
