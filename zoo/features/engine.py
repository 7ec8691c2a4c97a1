"""The engine that computes features: torch, or the runtime of an exporter."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.data.transforms import to_input
from zoo.engines.choice import (
    TOLERANCE,
    difference,
    fastest,
    load_engine,
    measure,
    named,
    needs_converting,
    remembered,
)
from zoo.engines.converted import Network
from zoo.errors import TrainingError, ZooError
from zoo.events import Listener, Note
from zoo.features.rows import Compute, rows_at_a_time
from zoo.features.stores import FrozenPart
from zoo.models.fuse import fuse_batch_norms
from zoo.models.replay import Boundary, activations, tensors_in

#: Images from which on `auto` may choose another engine than torch; with fewer images, a run gives
#: the same bits on machines with other engines.
WORTH_LOADING = 2000

#: Images from which on `auto` converts the network, also to see which engine is faster. For ONNX
#: Runtime and OpenVINO this takes 13 s, and saves 2.8 ms an image (efficientnet_lite0, two cores).
WORTH_CONVERTING = 5000


def check_engine(engine: str, device: torch.device, processes: int) -> None:
    """Check that there is an engine, and that it can be used on the device.

    Raises:
        PluginError: There is no such engine.
        TrainingError: It can't compute on the device, or in several processes.
    """
    if engine in ("auto", "torch"):
        return
    named(engine)
    if not _suits(device, processes):
        raise TrainingError(
            f"engine {engine} computes features on the CPU only, and in a single process",
            hint="set `device=cpu`, or `engine=torch`",
        )


def choose_engine(
    wanted: str,
    model: nn.Module,
    part: FrozenPart,
    preprocess: Preprocess,
    accelerator: Accelerator,
    *,
    images: int,
    sample: Callable[[], Tensor],
    listen: Listener,
) -> FrozenPart:
    """Return the part with the engine that computes its features.

    Its features of some images are compared with torch's, which is used instead, with a warning, if
    they differ by more than `TOLERANCE`, or if the engine that `auto` chose fails. With several
    processes, `auto` means torch.

    Raises:
        PluginError: There is no such engine, it is not installed, or it fails.
        TrainingError: It can't compute on the device, or in several processes.
        RunError: The converted network can't be kept.
    """
    device, processes = accelerator.device, accelerator.num_processes
    check_engine(wanted, device, processes)
    open_to_all = images >= WORTH_LOADING and _suits(device, processes)
    if wanted == "torch" or (wanted == "auto" and not open_to_all):
        return part
    network = _network(model, part, preprocess)
    own = _by_torch(model, part.boundary, preprocess, device)
    engine, reason = wanted, ""
    if wanted == "auto":
        engine, reason = _fastest(network, own, images, listen)
    if reason:
        listen(Note(text=f"features: {reason}"))
    if engine == "torch":
        return part
    pixels = sample()
    expected = own(pixels)
    try:
        found = load_engine(network, engine)(pixels)
    except ZooError as error:
        if wanted != "auto":
            raise
        why = str(error)
    else:
        worst = difference(found, expected)
        if worst <= TOLERANCE:
            return replace(part, engine=engine)
        why = (
            f"those of engine {engine} differ from its by {worst:.2g} of the largest value, "
            f"more than {TOLERANCE:g}"
        )
    listen(Note(text=f"features are computed by torch: {why}", warning=True))
    return part


def check_loads(model: nn.Module, part: FrozenPart, preprocess: Preprocess) -> None:
    """Load the part's engine, to see that features can be computed by it.

    Raises:
        PluginError, RunError: As in `zoo.engines.choice.load_engine`.
    """
    if part.engine != "torch":
        load_engine(_network(model, part, preprocess), part.engine)


def features_by(
    model: nn.Module, part: FrozenPart, preprocess: Preprocess, device: torch.device
) -> Compute:
    """Return the function that computes features (N, C) of pixels by the part's engine.

    The engine is loaded when features are first computed, which may raise the errors of
    `zoo.engines.choice.load_engine`.
    """
    if part.engine == "torch":
        return _by_torch(model, part.boundary, preprocess, device)

    @functools.cache
    def rows() -> Compute:
        return load_engine(_network(model, part, preprocess), part.engine)

    return lambda pixels: rows()(pixels)


def _suits(device: torch.device, processes: int) -> bool:
    return device.type == "cpu" and processes == 1


def _fastest(network: Network, own: Compute, images: int, listen: Listener) -> tuple[str, str]:
    """Return the engine that was faster, which is measured if that pays, and the reason."""
    size = rows_at_a_time(torch.device("cpu"))
    convert = images >= WORTH_CONVERTING
    speeds = remembered(network, size)
    if not speeds and convert:
        listen(Note(text="features: measuring which engine is the fastest, once for this network"))
        speeds = measure(network, own, size, lambda text: listen(Note(text=text, detail=True)))
    best, reason = fastest(speeds)
    # Measurements are kept for longer than converted networks.
    return ("torch", "") if not convert and needs_converting(network, best) else (best, reason)


def _by_torch(
    model: nn.Module, boundary: Boundary, preprocess: Preprocess, device: torch.device
) -> Compute:
    model.eval()
    noise = torch.Generator().manual_seed(0)
    example = torch.randn(2, preprocess.channels, *boundary.image_size, generator=noise).to(device)

    def forward(net: nn.Module, images: Tensor) -> Tensor:
        return activations(net, boundary, images)

    @functools.cache
    def net() -> nn.Module:
        """Fold the network's batch norms, when features are first computed."""
        return fuse_batch_norms(model, example, forward).model

    def compute(pixels: Tensor) -> Tensor:
        return forward(net(), to_input(pixels, preprocess, device)).flatten(1)

    return compute


def _network(model: nn.Module, part: FrozenPart, preprocess: Preprocess) -> Network:
    about = {
        "weights": part.weights_sha256,
        "backbone": part.backbone.name,
        "options": dict(part.options),
        "boundary": part.boundary.name,
    }
    return Network(module=_Features(model, part.boundary), preprocess=preprocess, about=about)


class _Features(nn.Module):
    """Model input (N, C, H, W) float32 to features (N, F) float32."""

    def __init__(self, classifier: nn.Module, boundary: Boundary) -> None:
        super().__init__()
        self.classifier = classifier
        self._path, self._nth = boundary.call.path, boundary.call.nth

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features; exporters leave out the head, whose output is not used."""
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen.append(tensors_in(inputs)[0])

        hook = self.classifier.get_submodule(self._path).register_forward_pre_hook(keep)
        try:
            self.classifier(images)
        finally:
            hook.remove()
        return seen[self._nth].float().flatten(1)
