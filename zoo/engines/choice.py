"""Which engines there are, and which one is the fastest for a network on this machine."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from zoo import plugins
from zoo.backbone import Preprocess
from zoo.engines.converted import (
    Network,
    Rows,
    folder,
    hash_of,
    is_kept,
    load_converted,
    network_key,
)
from zoo.errors import PluginError, ZooError
from zoo.exporter import Exporter
from zoo.io.files import replacing
from zoo.machine.speed import device_name

#: Largest difference of a value from torch's, relative to the largest one of a batch.
TOLERANCE = 1e-3

#: Rounds of a measurement, in which engines alternate.
_ROUNDS = 3


def runtimes() -> dict[str, tuple[str, Exporter]]:
    """Return the (format, exporter) of each runtime of the installed plugins."""
    found: dict[str, tuple[str, Exporter]] = {}
    for plugin in plugins.connect_all():
        with suppress(PluginError):  # `zoo plugins` reports it.
            for name, exporter in plugins.declared(plugin, "zoo_exporters").items():
                if isinstance(exporter, Exporter) and exporter.runtime:
                    found.setdefault(exporter.runtime, (name, exporter))
    return found


def named(engine: str) -> tuple[str, Exporter]:
    """Return the (format, exporter) of an engine other than torch.

    Raises:
        PluginError: There is no such engine.
    """
    known = runtimes()
    if engine not in known:
        raise PluginError(f"no engine {engine!r}; engines: {', '.join(['auto', 'torch', *known])}")
    return known[engine]


def load_engine(network: Network, engine: str) -> Rows:
    """Load a network with an engine other than torch; it is converted unless it is kept.

    Raises:
        PluginError: There is no such engine, it is not installed, or it fails.
        RunError: The converted network can't be kept.
    """
    return load_converted(network, *named(engine))


def remembered(network: Network, batch_size: int) -> dict[str, float]:
    """Return the images/s of each engine as measured on this machine; empty if they were not."""
    known = runtimes()
    try:
        read = json.loads((folder() / _file_name(network, known, batch_size)).read_bytes())
        speeds = {str(name): float(speed) for name, speed in read.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return speeds if speeds.keys() <= {"torch", *known} else {}


def measure(
    network: Network, own: Callable[[Tensor], object], batch_size: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Measure the images/s of torch and of each engine that can be used, and remember them.

    `say` is called with what is left out, and why.

    Returns:
        The images/s by engine; empty, and not remembered, if there is none but torch.
    """
    known = runtimes()
    pixels = _smooth(network.preprocess, batch_size)
    engines: dict[str, Callable[[Tensor], object]] = {"torch": own}
    for name, (form, exporter) in known.items():
        try:
            engine = load_converted(network, form, exporter)
            engine(pixels)
        except ZooError as error:
            say(f"engine {name} is not used: {error}")
        else:
            engines[name] = engine
    if len(engines) < 2:  # Nothing to remember: what is missing may be installed later.
        return {}
    times: dict[str, list[float]] = {name: [] for name in engines}
    own(pixels)
    for _ in range(_ROUNDS):
        for name, compute in engines.items():
            started = time.perf_counter()
            compute(pixels)
            times[name].append(time.perf_counter() - started)
    speeds = {name: batch_size / statistics.median(each) for name, each in times.items()}
    file = folder() / _file_name(network, known, batch_size)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside:
            beside.write_text(json.dumps(speeds), encoding="utf-8")
    except OSError as error:
        say(f"can't keep the speed of engines in {file.parent}: {error.strerror or error}")
    return speeds


def fastest(speeds: Mapping[str, float]) -> tuple[str, str]:
    """Return the fastest engine, and a line that says so; without speeds, torch and no line."""
    if not speeds:
        return "torch", ""
    best = max(speeds, key=lambda name: speeds[name])
    measured = ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items())
    return best, f"engine {best}: the fastest here (images/s: {measured})"


def needs_converting(network: Network, engine: str) -> bool:
    """Return whether a network must be converted before the engine can load it."""
    return engine != "torch" and not is_kept(network, *named(engine))


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    scale = max(float(expected.abs().max()), 1e-6)
    return float((found - expected).abs().max()) / scale


def _smooth(preprocess: Preprocess, count: int) -> Tensor:
    """Generate images (N, C, H, W) uint8 of smooth random colours."""
    noise = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, preprocess.channels, 8, 8, generator=noise)
    return interpolate(255 * coarse, preprocess.height_width, mode="bilinear").to(torch.uint8)


def _file_name(network: Network, known: Mapping[str, tuple[str, Exporter]], batch_size: int) -> str:
    """Return the name of the file of a measurement, which is a hash of what it depends on."""
    key = hash_of(
        {
            "networks": [network_key(network, *known[name]) for name in sorted(known)],
            "machine": device_name(torch.device("cpu")),
            "threads": torch.get_num_threads(),
            "batch": batch_size,
        }
    )
    return f"{key}.json"
