"""Checks of values: weights, outputs, gradients."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo import plugins
from zoo import weights as zoo_weights
from zoo.models.build import build_for, build_from
from zoo.models.depth import depths
from zoo.models.freeze import freeze_parameters, train_mode
from zoo.models.head import in_head
from zoo.tasks import SINGLE_LABEL
from zoo.testing.built import some
from zoo.testing.subject import (
    BATCH,
    CLASSES,
    CheckFailed,
    CheckSkipped,
    Subject,
    closed_network,
    logits_in,
)

#: Tolerance, relative to the largest logit, if only the order of summation differs.
TOLERANCE = 1e-3


def check_one_seed_gives_one_network(subject: Subject) -> None:
    """Two builds from the same random state have the same weights."""
    once, again = subject.build(CLASSES).state_dict(), subject.build(CLASSES).state_dict()
    different = [k for k, v in once.items() if not torch.equal(v, again[k])]
    if different:
        raise CheckFailed(
            f"two builds from one seed differ in {some(different)}: draw all random numbers from "
            f"torch's global generator, or runs can't be repeated"
        )


def check_pretrained_weights_load(subject: Subject) -> None:
    """`build(None, True)` loads all weights, without network access if they are on this machine."""
    backbone = subject.backbone
    if backbone.weights is None:
        raise CheckSkipped("it declares no pretrained weights")
    if not any(place.file for place in zoo_weights.places(backbone)):
        raise CheckSkipped(
            f"its pretrained weights are not on this machine; `zoo weights fetch {backbone.name}` "
            f"gets them"
        )
    with closed_network():
        torch.manual_seed(0)
        once = plugins.build(backbone, None, True).state_dict()
        torch.manual_seed(1)
        again = plugins.build(backbone, None, True).state_dict()
    different = [k for k, v in once.items() if not torch.equal(v, again[k])]
    if different:
        raise CheckFailed(
            f"with pretrained=True these are still random: {some(different)}; load all weights "
            f"strictly"
        )
    own = {k: v.shape for k, v in subject.original.state_dict().items()}
    if own != {k: v.shape for k, v in once.items()}:
        raise CheckFailed(
            "build(None, True) and build(None, False) give networks of other names or shapes: "
            "build one and the same, and load weights into it"
        )
    if backbone.convert is not None and plugins.convert(backbone, dict(once)).keys() != own.keys():
        raise CheckFailed(
            "`convert` changes names of weights that fit already: give those back as they are"
        )


def check_other_weights_stay_bit_identical(subject: Subject) -> None:
    """With a new head, every tensor outside it is bit-identical to the loaded one."""
    # Each tensor has its own value, tied ones share it; expanding needs no memory for a network.
    numbers: dict[int, int] = {}
    loaded = {
        key: torch.full(
            (), numbers.setdefault(id(tensor), len(numbers)) % 251 + 1, dtype=tensor.dtype
        ).expand(tensor.shape)
        for key, tensor in subject.original.state_dict(keep_vars=True).items()
    }
    weights = zoo_weights.LoadedWeights(state_dict=loaded, source="the check")
    model = build_from(subject.backbone, CLASSES, weights)
    changed = [
        key
        for key, tensor in model.state_dict().items()
        if not in_head(key, subject.backbone.head_paths) and not torch.equal(tensor, loaded[key])
    ]
    if changed:
        raise CheckFailed(
            f"{some(changed)} do not have the loaded values: don't change weights while loading"
        )


def check_eval_is_deterministic(subject: Subject) -> None:
    """In eval mode, the same images give the same logits, and do not change the network."""
    before = _copies(subject.model.state_dict())
    once, again = _logits(subject, subject.images()), _logits(subject, subject.images())
    if not torch.equal(once, again):
        raise CheckFailed(
            "in eval mode the same images give other logits: let dropout and all other chance ask "
            "`self.training`"
        )
    if moved := _moved(subject.model, before):
        raise CheckFailed(
            f"a forward pass in eval mode changes {some(moved)}: let it check `self.training`"
        )


def check_images_do_not_affect_each_other(subject: Subject) -> None:
    """In eval mode, an image's logits don't depend on the others in its batch."""
    together = _logits(subject, subject.images())
    for i in range(BATCH):
        alone = _logits(subject, subject.images()[i : i + 1])
        if not _close(alone[0], together[i]):
            raise CheckFailed(
                "in eval mode an image's logits depend on the others in its batch: don't compute "
                "statistics over the batch, and keep the batch dimension when squeezing"
            )


def check_memory_layout_changes_nothing(subject: Subject) -> None:
    """In the channels-last memory format, which zoo uses for speed, the logits are the same."""
    usual = _logits(subject, subject.images())
    model = copy.deepcopy(subject.model).to(memory_format=torch.channels_last)
    images = subject.images().contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            logits = logits_in(subject, model.eval(), images, CLASSES)
    except CheckFailed as error:
        raise CheckFailed(
            f"it can't compute in channels-last layout: use reshape() or flatten(), not view(). "
            f"{error}"
        ) from error
    if not _close(logits, usual):
        raise CheckFailed(
            "in channels-last layout it gives other logits: use no strides or raw memory order"
        )


def check_gradients_reach_head_and_backbone(subject: Subject) -> None:
    """A loss has a gradient for the head and, through it, for the backbone."""
    model = copy.deepcopy(subject.model)
    layers = depths(model, subject.backbone)
    train_mode(model, subject.backbone, layers, frozen=0, batch_norm="frozen")
    torch.autograd.backward(_loss(subject, model))
    for part, of_head in (("head", True), ("backbone", False)):
        own = {
            name: p
            for name, p in model.named_parameters()
            if in_head(name, subject.backbone.head_paths) == of_head
        }
        reached = [n for n, p in own.items() if p.grad is not None and bool(p.grad.any())]
        if of_head and len(reached) < len(own):
            raise CheckFailed(
                f"no gradient reaches {some(own.keys() - set(reached))} of its head: name in "
                f"`head` only layers whose outputs are the logits"
            )
        if own and not reached:
            raise CheckFailed(
                f"no gradient reaches its {part}: compute without no_grad() and detach()"
            )


def check_frozen_backbone_does_not_change(subject: Subject) -> None:
    """While only the head is trained, no parameter and no buffer outside it changes."""
    model = copy.deepcopy(subject.model)
    before = _copies(model.state_dict())
    layers = depths(model, subject.backbone)
    freeze_parameters(model.named_parameters(), layers, len(layers))
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1, momentum=0.9)
    for _ in range(2):
        train_mode(model, subject.backbone, layers, frozen=len(layers), batch_norm="train")
        optimizer.zero_grad()
        torch.autograd.backward(_loss(subject, model))
        optimizer.step()
    moved = [k for k in _moved(model, before) if not in_head(k, subject.backbone.head_paths)]
    if moved:
        raise CheckFailed(
            f"with its backbone frozen, {some(moved)} still change: let what is updated in a "
            f"forward pass check `self.training`"
        )


def check_state_dict_round_trip(subject: Subject) -> None:
    """Saved as safetensors and loaded, the network gives the same logits; weights stay tied."""
    expected = _logits(subject, subject.images())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file(_copies(subject.model.state_dict()), file)
        model = build_for(subject.backbone, CLASSES, load_file(file))
    with torch.no_grad():
        logits = logits_in(subject, model.eval(), subject.images(), CLASSES)
    if not torch.equal(logits, expected):
        raise CheckFailed(
            "saved and loaded again it gives other logits: register all state as parameters or "
            "persistent buffers"
        )
    if _ties(model) != _ties(subject.model):
        raise CheckFailed(
            "weights that are tied are no longer tied in another build: tie them in __init__"
        )


def _logits(subject: Subject, images: Tensor) -> Tensor:
    with torch.no_grad():
        return logits_in(subject, subject.model.eval(), images, CLASSES)


def _loss(subject: Subject, model: nn.Module) -> Tensor:
    """Return the sum of the cross-entropy losses of the logits and all auxiliary ones."""
    outputs = model(subject.images())
    every = outputs if isinstance(outputs, tuple) else (outputs,)
    labels = torch.arange(BATCH) % CLASSES
    return torch.stack([SINGLE_LABEL.loss(logits, labels) for logits in every]).sum()


def _close(one: Tensor, other: Tensor) -> bool:
    scale = max(float(other.abs().max()), 1e-12)
    return bool(torch.allclose(one, other, rtol=0, atol=TOLERANCE * scale))


def _copies(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in state_dict.items()
    }


def _moved(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]


def _ties(model: nn.Module) -> set[frozenset[str]]:
    """Return the sets of names that share a parameter."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(shared) for shared in names.values() if len(shared) > 1}
