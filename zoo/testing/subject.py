"""The subject of the checks: a backbone, and the models built from it, each built once."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, NoReturn, Protocol, cast
from unittest import mock

import torch
from torch import Tensor, nn

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import PluginError
from zoo.models.head import ensure_head, initialise_head

#: Class counts of the heads that are tested: neither is a usual default, nor 1 or 2.
CLASSES, OTHER_CLASSES = 7, 5

#: Images per batch: two, because a batch of one may be squeezed, or rejected by batch norm.
BATCH = 2


#: What plugins declare, and checks are made of.
Kind = Literal["backbone", "source", "exporter", "logger", "loss", "transform"]


class CheckFailed(Exception):
    """The subject violates the contract; the message says what its author must change."""


class CheckSkipped(Exception):
    """The check can't be run here, or does not apply to the subject; the message says why."""


class Tested(Protocol):
    """What the checks of any kind have in common."""

    @property
    def kind(self) -> Kind:
        """What it is."""

    @property
    def name(self) -> str:
        """Its name; the full one of a backbone."""

    @property
    def shapes_only(self) -> bool:
        """Whether its tensors have no values."""


class Subject:
    """A backbone under test.

    Attributes:
        backbone: The declaration of the backbone.
        device: `cpu`, or `meta`: shapes without values, for checking many backbones.
    """

    kind: ClassVar[Kind] = "backbone"

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.backbone = backbone
        self.device = device

    @property
    def name(self) -> str:
        """Full name of the backbone."""
        return self.backbone.name

    @property
    def shapes_only(self) -> bool:
        """Whether its tensors have no values."""
        return self.device.type == "meta"

    @cached_property
    def original(self) -> nn.Module:
        """The network with its original head."""
        return self.build(None)

    @cached_property
    def built(self) -> nn.Module:
        """The network as the plugin builds it for `CLASSES`."""
        return self.build(CLASSES)

    @cached_property
    def model(self) -> nn.Module:
        """`built` with the head that zoo ensures for `CLASSES`, initialized by zoo."""
        return self.complete(self.built, CLASSES)

    @cached_property
    def other(self) -> nn.Module:
        """Like `model`, for `OTHER_CLASSES`."""
        return self.fresh(OTHER_CLASSES)

    def build(self, num_classes: int | None, backbone: Backbone | None = None) -> nn.Module:
        """Build the network as the plugin does, always from the same random state."""
        torch.manual_seed(0)
        if self.device.type == "cpu":
            return plugins.build(backbone or self.backbone, num_classes, False)
        try:
            with self.device, no_initialisation():
                return plugins.build(backbone or self.backbone, num_classes, False)
        except PluginError:
            # Some networks read values while they are built, which meta tensors do not have.
            return plugins.build(backbone or self.backbone, num_classes, False).to("meta")

    def fresh(self, num_classes: int, backbone: Backbone | None = None) -> nn.Module:
        """Build and complete a network."""
        return self.complete(self.build(num_classes, backbone), num_classes, backbone)

    def complete(
        self, model: nn.Module, num_classes: int, backbone: Backbone | None = None
    ) -> nn.Module:
        """Do what zoo does after a build: ensure a head of that size, and initialize it."""
        torch.manual_seed(0)
        with self.device:
            ensure_head(model, backbone or self.backbone, num_classes)
            initialise_head(model, backbone or self.backbone, "normal")
        return model

    def images(
        self, size: tuple[int, int] | None = None, backbone: Backbone | None = None
    ) -> Tensor:
        """Return noise (BATCH, C, H, W) float32 in the range of normalized images; seed fixed."""
        preprocess = (backbone or self.backbone).preprocess
        height, width = size or preprocess.height_width
        shape = (BATCH, preprocess.channels, height, width)
        if self.device.type == "meta":
            return torch.empty(shape, device="meta")
        return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@contextlib.contextmanager
def no_initialisation() -> Iterator[None]:
    """Skip the initialization of weights that are never read, which takes most of a build's time.

    The functions of torch.nn.init return their tensor unchanged.
    """
    initialisers = [name for name in vars(nn.init) if name.endswith("_") and name[0] != "_"]
    with contextlib.ExitStack() as stack:
        for name in initialisers:
            stack.enter_context(mock.patch.object(nn.init, name, lambda tensor, *_, **__: tensor))
        yield


def logits_in(subject: Subject, model: nn.Module, images: Tensor, classes: int) -> Tensor:
    """Return the model's logits (N, classes), after checking that its output fits the contract.

    Raises:
        CheckFailed: The forward pass raises, or its output does not fit the contract.
    """
    mode = "train" if model.training else "eval"
    try:
        output = model(images)
    except PluginError as error:
        raise CheckFailed(
            f"in {mode} mode {error}; let `logits` get the logits ({len(images)}, {classes}) from "
            f"what the forward pass returns"
        ) from error
    except Exception as error:
        height, width = images.shape[2:]
        raise CheckFailed(
            f"in {mode} mode its forward pass raises {plugins.explain(error)} for images "
            f"{tuple(images.shape)}; correct it, or declare in `preprocess` another size than "
            f"{height} x {width}"
        ) from error
    first, *auxiliary = output if isinstance(output, tuple) else (output,)
    aux = subject.backbone.aux
    if len(auxiliary) not in ((len(aux),) if model.training else (0, len(aux))):
        raise CheckFailed(
            f"in {mode} mode it gives {1 + len(auxiliary)} outputs, its head declares "
            f"{len(aux)} auxiliary ones: get the logits from them by `logits`, or declare "
            f"zoo.Head(paths=..., aux=...) with a loss weight for each of the others"
        )
    for each in (first, *auxiliary):
        shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
        if not isinstance(each, Tensor):
            source = "its `logits` gives" if subject.backbone.logits else "it gives"
            raise CheckFailed(
                f"in {mode} mode {source} a {shape}, zoo needs logits ({len(images)}, {classes}): "
                f"{_advice(each)}"
            )
        if shape != (len(images), classes):
            raise CheckFailed(
                f"in {mode} mode it gives {shape} for {len(images)} images and {classes} classes, "
                f"zoo needs logits ({len(images)}, {classes}): name in `head` every layer whose "
                f"outputs are class scores, and let `build` return the classifier itself"
            )
    return cast("Tensor", first)


def _advice(output: object) -> str:
    if isinstance(output, Mapping):
        return f"declare `logits=operator.itemgetter(KEY)`, with one of {', '.join(output)}"
    if dataclasses.is_dataclass(output):
        names = ", ".join(field.name for field in dataclasses.fields(output))
        return f"declare `logits=operator.attrgetter(NAME)`, with one of {names}"
    return "declare `logits`, a function that gets the tensor from that"


@contextlib.contextmanager
def closed_network() -> Iterator[list[str]]:
    """Block network access in this process; yields the list of addresses that were tried."""
    tried: list[str] = []

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        tried.append(str(next((a for a in args if not isinstance(a, socket.socket)), "?")))
        raise OSError("network access is blocked while a backbone is checked")

    names = ("getaddrinfo", "create_connection", "gethostbyname")
    refused: dict[str, Any] = dict.fromkeys(names, refuse)
    with (
        mock.patch.multiple(socket, **refused),
        mock.patch.object(socket.socket, "connect", refuse),
    ):
        yield tried
