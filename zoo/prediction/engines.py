"""The engine of a prediction: torch, or a runtime of an exporter on a converted network.

A converted network is kept in `engines` in zoo's folder, by the weights and all else that
determines it, and so is which engine was faster on this machine.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from zoo import plugins
from zoo.errors import PluginError, RunError, ZooError
from zoo.export.model import ExportableModel
from zoo.export.runtime import calling, load_exported
from zoo.exporter import Exporter
from zoo.hookspecs import DISTRIBUTION
from zoo.io.files import home, is_file, replacing
from zoo.machine.device import choose_precision
from zoo.machine.speed import device_name
from zoo.runs.inference import warn
from zoo.runs.read import Run
from zoo.runs.scores import FeaturesAndLogits
from zoo.runs.stream import Engine, Precision, torch_engine
from zoo.weights import tensors_sha256

#: Largest difference of a logit or feature from torch's, relative to the largest one of a batch.
TOLERANCE = 1e-3

#: Images from which on a network is converted to see whether another engine is faster: converting
#: takes some ten seconds, and saves some milliseconds an image.
WORTH_CONVERTING = 2000

#: Images from which on batch norms are folded, which takes as long as some images.
_WORTH_FOLDING = 64

#: Rounds of a measurement, in which engines alternate.
_ROUNDS = 3

#: Maximum number of converted networks that are kept.
_KEPT = 8

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
            at the first prediction of at least `WORTH_CONVERTING` images.
        images: Number of images; None: unknown, and many.
        batch_size: Images per call; default: that of the engine.
        precision: As in `torch_engine`; others than `fp32` are for torch only.
        say: Called with warnings.

    Raises:
        PluginError: There is no such engine, it is not installed, or it fails.
        RunError: The engine can't compute in that precision or on the run's device.
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
    known = _runtimes()
    if name not in known:
        raise PluginError(f"no engine {name!r}; engines: {', '.join(['auto', 'torch', *known])}")
    if not suits:
        raise RunError(
            f"engine {name} computes in fp32 on the CPU only",
            hint="set `device=cpu` and `precision=fp32`, or `engine=torch`",
        )
    return Choice(engine=_checked(_converted(run, name, known[name], own), own, say))


def _runtimes() -> dict[str, tuple[str, Exporter]]:
    """Return the (format, exporter) of each runtime of the installed plugins."""
    found: dict[str, tuple[str, Exporter]] = {}
    for plugin in plugins.connect_all():
        with suppress(PluginError):  # `zoo plugins` reports it.
            for name, exporter in plugins.declared(plugin, "zoo_exporters").items():
                if isinstance(exporter, Exporter) and exporter.runtime:
                    found.setdefault(exporter.runtime, (name, exporter))
    return found


def _fastest(run: Run, own: Engine, images: int | None, say: Say) -> Choice:
    """Return the engine that was faster, which is measured if that pays."""
    known = _runtimes()
    file = _folder() / f"{_key(run, own, known)}.json"
    speeds = _read_speeds(file, known)
    if not speeds:
        if images is not None and images < WORTH_CONVERTING:
            return Choice(engine=own)
        speeds = _measure(run, own, known, say)
        if len(speeds) < 2:  # Nothing to remember: what is missing may be installed later.
            return Choice(engine=own)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside:
            beside.write_text(json.dumps(speeds), encoding="utf-8")
    best = max(speeds, key=lambda name: speeds[name])
    measured = ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items())
    reason = f"engine {best}: the fastest here (images/s: {measured})"
    if best == own.name:
        return Choice(engine=own, reason=reason)
    engine = _checked(_converted(run, best, known[best], own), own, say)
    return Choice(engine=engine, reason=reason)


def _measure(
    run: Run, own: Engine, known: Mapping[str, tuple[str, Exporter]], say: Say
) -> dict[str, float]:
    """Measure the images/s of torch and of each runtime that can be used."""
    engines, pixels = [own], _smooth(run, own.batch_size)
    for name, exporter in known.items():
        try:
            engine = _converted(run, name, exporter, own)
            engine.compute(pixels)
        except ZooError as error:
            say(f"engine {name} is not used: {error}")
        else:
            engines.append(engine)
    if len(engines) < 2:
        return {}
    times: dict[str, list[float]] = {engine.name: [] for engine in engines}
    own.compute(pixels)
    for _ in range(_ROUNDS):
        for engine in engines:
            started = time.perf_counter()
            engine.compute(pixels)
            times[engine.name].append(time.perf_counter() - started)
    return {name: own.batch_size / statistics.median(each) for name, each in times.items()}


def _smooth(run: Run, count: int) -> Tensor:
    """Generate images (N, C, H, W) uint8 of smooth random colours."""
    preprocess = run.info.preprocess
    noise = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, preprocess.channels, 8, 8, generator=noise)
    return interpolate(255 * coarse, preprocess.height_width, mode="bilinear").to(torch.uint8)


def _converted(run: Run, runtime: str, named: tuple[str, Exporter], own: Engine) -> Engine:
    """Return the engine of a runtime, whose network is converted unless it is in the cache.

    Raises:
        PluginError: The exporter or the runtime fails.
        RunError: The converted network can't be kept.
    """
    name, exporter = named
    file = _folder() / _network_key(run, name, exporter) / f"network{exporter.suffix}"
    # Features and logits are one array, since an exporter writes networks of a single output.
    width = _feature_width(run)
    if not _is_whole(exporter.files(file)):
        _convert(run, name, exporter, file)
    with suppress(OSError):
        file.touch()
    call = load_exported(name, exporter, file, width + len(run.class_names))

    def compute(pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = call(np.ascontiguousarray(pixels.numpy())).astype(np.float32, copy=False)
        rows = torch.from_numpy(found)
        return rows[:, :width], rows[:, width:]

    return Engine(name=runtime, compute=compute, batch_size=own.batch_size)


@torch.inference_mode()
def _feature_width(run: Run) -> int:
    preprocess = run.info.preprocess
    device = next(run.model.parameters()).device
    blank = torch.zeros(1, preprocess.channels, *preprocess.height_width, device=device)
    features, _ = FeaturesAndLogits(run.model.eval(), run.backbone).pair(blank)
    return features.shape[1]


def _convert(run: Run, name: str, exporter: Exporter, file: Path) -> None:
    both = FeaturesAndLogits(run.model, run.backbone)
    model = ExportableModel(both, run.info.preprocess)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=file.parent.parent, prefix=".converting-"))
        try:
            made = folder / file.name
            with calling(name, exporter):
                exporter.write(model, model.example(), made, {})
            with replacing(_sum_of(file)) as beside:
                beside.write_text(_sha256(exporter.files(made)), encoding="ascii")
            for each, kept in zip(exporter.files(made), exporter.files(file), strict=True):
                each.replace(kept)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _forget_old(file.parent)
    except OSError as error:
        raise RunError(
            f"can't keep the converted network in {file.parent}: {error.strerror or error}"
        ) from error


def _forget_old(kept: Path) -> None:
    """Delete the networks that have not been used for longest."""

    def used(folder: Path) -> float:
        return max((file.stat().st_mtime for file in folder.glob("network*")), default=0.0)

    folders = [each for each in kept.parent.iterdir() if each.is_dir() and each.name[0] != "."]
    for folder in sorted(folders, key=used, reverse=True)[_KEPT:]:
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)


def _is_whole(files: Sequence[Path]) -> bool:
    with suppress(OSError):
        known = _sum_of(files[0]).read_text(encoding="ascii")
        return all(map(is_file, files)) and known == _sha256(files)
    return False


def _sum_of(file: Path) -> Path:
    return file.with_name("sha256")


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _checked(engine: Engine, own: Engine, say: Say) -> Engine:
    """Compare the first batch of an engine with torch, which takes over if they differ."""
    chosen: list[Engine] = []

    def compute(pixels: Tensor) -> tuple[Tensor, Tensor]:
        if chosen:
            return chosen[0].compute(pixels)
        found, expected = engine.compute(pixels), own.compute(pixels)
        difference = max(map(_difference, found, expected))
        if difference <= TOLERANCE:
            chosen.append(engine)
            return found
        say(
            f"torch is used: on the first batch, engine {engine.name} differs from it by "
            f"{difference:.2g} of the largest value, more than {TOLERANCE:g}"
        )
        chosen.append(own)
        return expected

    return replace(engine, compute=compute)


def _difference(found: Tensor, expected: Tensor) -> float:
    scale = max(float(expected.abs().max()), 1e-6)
    return float((found - expected).abs().max()) / scale


def _folder() -> Path:
    return home() / "engines"


def _network_key(run: Run, name: str, exporter: Exporter) -> str:
    """Return what a converted network depends on, as a hash."""
    libraries = ("torch", DISTRIBUTION, *exporter.requires, *exporter.libraries)
    about = {
        "format": name,
        "weights": tensors_sha256(run.model.state_dict()),
        "backbone": run.info.backbone,
        "options": run.info.recipe.backbone_options,
        "preprocess": asdict(run.info.preprocess),
        "versions": {each: _version(each) for each in libraries},
    }
    return _hash(about)


def _key(run: Run, own: Engine, known: Mapping[str, tuple[str, Exporter]]) -> str:
    """Return what a measurement depends on, as a hash."""
    return _hash(
        {
            "networks": [_network_key(run, *known[name]) for name in sorted(known)],
            "machine": device_name(torch.device("cpu")),
            "threads": torch.get_num_threads(),
            "batch": own.batch_size,
        }
    )


def _hash(about: Mapping[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _read_speeds(file: Path, known: Mapping[str, object]) -> dict[str, float]:
    """Read a measurement; empty if there is none."""
    try:
        read = json.loads(file.read_bytes())
        speeds = {str(name): float(speed) for name, speed in read.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return speeds if speeds.keys() <= {"torch", *known} else {}
