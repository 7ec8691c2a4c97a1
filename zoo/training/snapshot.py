"""Contents of a training checkpoint, and how training resumes from it."""

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
from zoo.io.text import clip
from zoo.recipe import Recipe
from zoo.training.state import TrainingState

_MODEL, _OPTIMIZER, _ORIGIN, _AVERAGE = "model/", "optimizer/", "origin/", "average/"

#: Average of the last epochs, by names without adapters.
_EPOCHS = "epochs/"

#: Step counts of optimizers that count for each parameter group; `group/NAME/step`.
_GROUP, _STEP = "group/", "step"

#: Ends of the names of values of an optimizer: a number of Python's, and a tensor that stays on the
#: CPU although its parameter does not.
_NUMBER, _ON_CPU = ":number", ":cpu"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Training at one point in time: model, optimizer and progress.

    It has no random states: random numbers are a function of the run's seed and of the step
    (dropout), or of the epoch and the image (order, augmentation).

    Attributes:
        tensors: `model/NAME` of the state dict, `optimizer/PARAMETER/KEY`, `group/NAME/step` of
            optimizers that count steps in parameter groups, `average/NAME` of the moving average
            and `epochs/NAME` of the average of the last epochs, if there are any. They are not
            copies.
        state: Progress of training.
        scaler: State of the gradient scaler in fp16 mixed precision; empty without.
        origin: Initial head of fine-tuning, by name, if it comes from a probe; else empty.
    """

    tensors: Mapping[str, Tensor]
    state: TrainingState
    scaler: Mapping[str, Any]
    origin: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all tensors by unique names, as `from_parts` expects them."""
        return {**self.tensors, **{f"{_ORIGIN}{name}": t for name, t in self.origin.items()}}

    def about(self) -> dict[str, Any]:
        """Return everything except the tensors, JSON-ready."""
        return {"training": dataclasses.asdict(self.state), "scaler": dict(self.scaler)}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Snapshot:
        """Create a snapshot from the results of `to_tensors` and `about`.

        Raises:
            RunError: `about` is not the state of a training.
        """
        try:
            state = TrainingState(**about["training"])
            origin = {n.removeprefix(_ORIGIN): t for n, t in tensors.items() if _of_origin(n)}
            own = {name: tensor for name, tensor in tensors.items() if not _of_origin(name)}
            return cls(tensors=own, state=state, scaler=about["scaler"], origin=origin)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"the checkpoint's training state can't be understood: {clip(str(error))}"
            ) from error

    @property
    def model(self) -> dict[str, Tensor]:
        """State dict of the model."""
        return self._named(_MODEL)

    @property
    def average(self) -> dict[str, Tensor]:
        """Moving average of the state dict; empty without one."""
        return self._named(_AVERAGE)

    @property
    def epoch_average(self) -> dict[str, Tensor]:
        """Average of the last epochs, of the network without adapters; empty without one."""
        return self._named(_EPOCHS)

    @property
    def validated(self) -> dict[str, Tensor]:
        """State dict that is validated: the average if there is one, else the model's."""
        return self.average or self.model

    def _named(self, prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


_CPU = torch.device("cpu")

#: Saves a snapshot, with the `EpochEnd` if it ends an epoch; called in every process.
Save = Callable[[Snapshot, EpochEnd | None], None]


def take(
    model: nn.Module,
    state: TrainingState,
    optimizer: torch.optim.Optimizer | None = None,
    accelerator: Accelerator | None = None,
    average: Mapping[str, Tensor] | None = None,
    epoch_average: Mapping[str, Tensor] | None = None,
) -> Snapshot:
    """Create a snapshot of a bare model and, if given, of its optimizer (bare or prepared)."""
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in model.state_dict().items()}
    tensors.update({f"{_AVERAGE}{name}": tensor for name, tensor in (average or {}).items()})
    tensors.update({f"{_EPOCHS}{name}": tensor for name, tensor in (epoch_average or {}).items()})
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    full, tensor = _stored(f"{_OPTIMIZER}{name}/{key}", value, parameter.device)
                    tensors[full] = tensor
        for group in optimizer.param_groups:
            if (count := group.get(_STEP)) is not None:
                full, tensor = _stored(f"{_GROUP}{group['name']}/{_STEP}", count, _CPU)
                tensors[full] = tensor
    scaler = getattr(accelerator, "scaler", None)
    return Snapshot(
        tensors=tensors, state=state, scaler={} if scaler is None else scaler.state_dict()
    )


def check_fits(snapshot: Snapshot, model: nn.Module) -> None:
    """Check that a snapshot belongs to this model, which may be on the meta device.

    Raises:
        RunError: The snapshot belongs to another model.
    """
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    given = {name: tensor.shape for name, tensor in snapshot.model.items()}
    differing = {name for name, _ in own.items() ^ given.items()}
    for other in (snapshot.origin, snapshot.average):
        differing |= {n for n, tensor in other.items() if own.get(n) != tensor.shape}
    for name, tensor in snapshot.epoch_average.items():
        path, _, leaf = name.rpartition(".")
        if tensor.shape not in (own.get(name), own.get(f"{path}.base_layer.{leaf}")):
            differing.add(name)
    parameters = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, tensor in snapshot.tensors.items():
        if name.startswith(_GROUP):
            if tensor.shape != ():
                differing.add(name)
        elif not name.startswith((_MODEL, _AVERAGE, _EPOCHS)):
            parameter, _, _ = name.removeprefix(_OPTIMIZER).rpartition("/")
            if parameter not in parameters or not _fits(tensor.shape, parameters[parameter]):
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
    """Load a snapshot in place; each tensor keeps its device and memory format.

    Raises:
        RunError: The snapshot belongs to another model.
    """
    check_fits(snapshot, model)
    load_state(model, snapshot.model)
    for field in dataclasses.fields(TrainingState):
        setattr(state, field.name, getattr(snapshot.state, field.name))
    # With a different number of processes, the value of the main one is used.
    if accelerator is not None and len(state.micro_batches) == accelerator.num_processes:
        state.micro_batch = state.micro_batches[accelerator.process_index]
    if optimizer is not None:
        parameters = dict(model.named_parameters())
        groups = {group.get("name"): group for group in optimizer.param_groups}
        forget(optimizer)
        for name, tensor in snapshot.tensors.items():
            if name.startswith(_OPTIMIZER):
                parameter, _, key = name.removeprefix(_OPTIMIZER).rpartition("/")
                key, value = _restored(key, tensor, parameters[parameter])
                optimizer.state[parameters[parameter]][key] = value
            elif name.startswith(_GROUP):
                group, _, key = name.removeprefix(_GROUP).rpartition("/")
                if group not in groups:
                    raise RunError(f"the checkpoint is another model's: {name} differs")
                key, value = _restored(key, tensor, tensor)
                groups[group][key] = value
    scaler = getattr(accelerator, "scaler", None)
    if scaler is not None and snapshot.scaler:
        scaler.load_state_dict(dict(snapshot.scaler))


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Reset an optimizer to its state before the first step."""
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group.pop(_STEP, None)


@torch.no_grad()
def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict into a model in place; each tensor keeps its device and memory format."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(state[name])


def _of_origin(name: str) -> bool:
    return name.startswith(_ORIGIN)


def is_finite(model: nn.Module) -> bool:
    """Return whether all parameters and buffers of a model are finite."""
    floats = [t for t in model.state_dict().values() if t.is_floating_point()]
    return not floats or bool(torch.stack([t.isfinite().all() for t in floats]).all())


def _fits(shape: torch.Size, parameter: torch.Size) -> bool:
    """Return whether a state has the shape of its parameter, or lacks some of its dimensions."""
    left = iter(parameter)
    return all(side in left for side in shape if side != 1)


def _stored(name: str, value: object, device: torch.device) -> tuple[str, Tensor]:
    """Return the name and the tensor by which a value of an optimizer is saved.

    Args:
        name: Its name.
        value: A tensor, or a number of Python's: with 64 bits, it gives other results than with 32.
        device: Device of its parameter.
    """
    if not isinstance(value, Tensor):
        kind = torch.float64 if isinstance(value, float) else None
        return f"{name}{_NUMBER}", torch.tensor(value, dtype=kind)
    stays = value.device.type == "cpu" != device.type
    return (f"{name}{_ON_CPU}" if stays else name), value


def _restored(key: str, tensor: Tensor, parameter: Tensor) -> tuple[str, object]:
    """Return the key and the value that `_stored` has saved."""
    if key.endswith(_NUMBER):
        return key.removesuffix(_NUMBER), tensor.item()
    if key.endswith(_ON_CPU):
        return key.removesuffix(_ON_CPU), tensor.cpu().clone()
    return key, _like(parameter, tensor)


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    if tensor.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
    # Such as a step count: fused kernels need it on the parameter's device.
    return tensor.to(parameter.device).clone()


@dataclass
class Clock:
    """Schedule of the checkpoints within an epoch.

    Attributes:
        steps: Steps between checkpoints; None: by time only.
        seconds: Seconds between checkpoints; None: by steps only.
        last: When the last checkpoint was written, by `time.monotonic`.
    """

    steps: int | None
    seconds: float | None
    last: float = dataclasses.field(default_factory=time.monotonic)

    @classmethod
    def of(cls, recipe: Recipe) -> Clock:
        """Create the clock that the recipe specifies."""
        every = recipe.checkpoint_every
        if isinstance(every, int):
            return cls(steps=every, seconds=None)
        return cls(steps=None, seconds=recipe.checkpoint_seconds)

    def by_steps(self, step: int) -> bool:
        """Return whether a checkpoint is due after this step; the same in every process."""
        return self.steps is not None and step % self.steps == 0

    def by_time(self) -> bool:
        """Return whether a checkpoint is due now."""
        return self.seconds is not None and time.monotonic() - self.last >= self.seconds
