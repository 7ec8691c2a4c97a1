"""The engine of a prediction: torch, or a runtime of an exporter on a converted network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

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
from zoo.errors import RunError, ZooError
from zoo.machine.device import choose_precision
from zoo.runs.inference import warn
from zoo.runs.read import Run
from zoo.runs.scores import FeaturesAndLogits
from zoo.runs.stream import Engine, Precision, torch_engine
from zoo.weights import tensors_sha256

#: Images from which on a network is converted to see whether another engine is faster: converting
#: takes some ten seconds, and saves some milliseconds an image.
WORTH_CONVERTING = 2000

#: Images from which on batch norms are folded, which takes as long as some images.
_WORTH_FOLDING = 64

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine of a prediction, and why it is used.

    Attributes:
        engine: The engine.
        reason: One line for the user; empty if there is nothing to say.
    """

    engine: Engine
    reason: str = ""


def choose_engine(
    run: Run,
    name: str = "auto",
    *,
    images: int | None = None,
    batch_size: int | None = None,
    precision: Precision = "fp32",
    say: Say = warn,
) -> Choice:
    """Return the engine of that name, or the fastest one.

    Another engine than torch converts the network once per machine. Its first batch is compared
    with torch, which takes over if they differ by more than `TOLERANCE`.

    Args:
        run: The run.
        name: `torch`; the runtime of an exporter, such as `onnxruntime`; or `auto`: in float32 on a
            CPU the engine that was faster when it was measured, and otherwise torch. It is measured
            at the first prediction of at least `WORTH_CONVERTING` images. For fewer images, nothing
            is converted. If the engine fails, torch is used, with a warning.
        images: Number of images; None: unknown, and many.
        batch_size: Images per call; default: that of the engine.
        precision: As in `torch_engine`; others than `fp32` are for torch only.
        say: Called with warnings.

    Raises:
        PluginError: There is no such engine, it is not installed, or it fails.
        RunError: The engine can't compute in that precision or on the run's device, or the
            converted network can't be kept.
        TrainingError: The device does not support the precision.
    """
    device = next(run.model.parameters()).device
    fold = images is None or images >= _WORTH_FOLDING
    own = torch_engine(run, precision=precision, fold=fold, say=say)
    if batch_size is not None:
        own = replace(own, batch_size=batch_size)
    if name == "torch":
        return Choice(engine=own)
    suits = device.type == "cpu" and choose_precision(precision, device) == "fp32"
    if name == "auto":
        return _fastest(run, own, images, say) if suits else Choice(engine=own)
    named(name)
    if not suits:
        raise RunError(
            f"engine {name} computes in fp32 on the CPU only",
            hint="set `device=cpu` and `precision=fp32`, or `engine=torch`",
        )
    return Choice(engine=_checked(_loaded(run, name, own), own, say))


def _fastest(run: Run, own: Engine, images: int | None, say: Say) -> Choice:
    """Return the engine that was faster, which is measured if that pays."""
    network = _network(run)
    convert = images is None or images >= WORTH_CONVERTING
    speeds = remembered(network, own.batch_size)
    if not speeds and convert:
        speeds = measure(network, own.compute, own.batch_size, say)
    best, reason = fastest(speeds)
    if best == own.name:
        return Choice(engine=own, reason=reason)
    # Measurements are kept for longer than converted networks.
    if not convert and needs_converting(network, best):
        return Choice(engine=own)
    try:
        engine = _loaded(run, best, own)
    except ZooError as error:
        say(f"torch is used: {error}")
        return Choice(engine=own)
    return Choice(engine=_checked(engine, own, say, may_fail=True), reason=reason)


def _network(run: Run) -> Network:
    """Return the network of a run, with features and logits side by side."""
    about = {
        "weights": tensors_sha256(run.model.state_dict()),
        "backbone": run.info.backbone,
        "options": run.info.recipe.backbone_options,
    }
    both = FeaturesAndLogits(run.model, run.backbone)
    return Network(module=both, preprocess=run.info.preprocess, about=about)


def _loaded(run: Run, name: str, own: Engine) -> Engine:
    rows = load_engine(_network(run), name)
    classes = len(run.class_names)

    def compute(pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = rows(pixels)
        return found[:, :-classes], found[:, -classes:]

    return Engine(name=name, compute=compute, batch_size=own.batch_size)


def _checked(engine: Engine, own: Engine, say: Say, *, may_fail: bool = False) -> Engine:
    """Compare the first batch of an engine with torch, which takes over if they differ.

    With `may_fail`, torch also takes over if the engine can't compute that batch.
    """
    chosen: list[Engine] = []

    def compute(pixels: Tensor) -> tuple[Tensor, Tensor]:
        if chosen:
            return chosen[0].compute(pixels)
        expected = own.compute(pixels)
        try:
            found = engine.compute(pixels)
        except ZooError as error:
            if not may_fail:
                raise
            say(f"torch is used: {error}")
        else:
            worst = max(map(difference, found, expected))
            if worst <= TOLERANCE:
                chosen.append(engine)
                return found
            say(
                f"torch is used: on the first batch, engine {engine.name} differs from it by "
                f"{worst:.2g} of the largest value, more than {TOLERANCE:g}"
            )
        chosen.append(own)
        return expected

    return replace(engine, compute=compute)
