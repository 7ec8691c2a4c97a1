"""Converted networks, kept in `engines` in zoo's folder by all that determines them."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.engines.model import ExportableModel
from zoo.engines.runtime import calling, load_exported
from zoo.errors import RunError
from zoo.exporter import Exporter
from zoo.hookspecs import DISTRIBUTION
from zoo.io.files import home, is_file, replacing

#: Maximum number of converted networks that are kept.
_KEPT = 8

#: Pixels (N, C, H, W) uint8 to rows (N, width) float32, both on the CPU.
Rows = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that an engine can compute.

    Attributes:
        module: Model input (N, C, H, W) float32 to rows (N, width) float32, on the CPU. One tensor,
            since an exporter writes networks of a single output.
        preprocess: Preprocessing of the images.
        about: All else that determines the rows, such as the SHA-256 of the weights; JSON.
    """

    module: nn.Module
    preprocess: Preprocess
    about: Mapping[str, Any]


def load_converted(network: Network, name: str, exporter: Exporter) -> Rows:
    """Load a network with the runtime of a format; it is converted unless it is kept.

    Raises:
        PluginError: The exporter or the runtime fails.
        RunError: The converted network can't be kept.
    """
    file = _file_of(network, name, exporter)
    if not _is_whole(exporter.files(file)):
        _convert(network, name, exporter, file)
    with suppress(OSError):
        file.touch()
    call = load_exported(name, exporter, file, _width(network))

    def compute(pixels: Tensor) -> Tensor:
        found = call(np.ascontiguousarray(pixels.numpy())).astype(np.float32, copy=False)
        return torch.from_numpy(found)

    return compute


def is_kept(network: Network, name: str, exporter: Exporter) -> bool:
    """Return whether there are files of the converted network; loading checks what is in them."""
    file = _file_of(network, name, exporter)
    return all(map(is_file, [_sum_of(file), *exporter.files(file)]))


def folder() -> Path:
    """Return the folder of converted networks and measurements."""
    return home() / "engines"


def network_key(network: Network, name: str, exporter: Exporter) -> str:
    """Return what a converted network depends on, as a hash."""
    return hash_of(
        {
            "format": name,
            **network.about,
            "preprocess": asdict(network.preprocess),
            "versions": {DISTRIBUTION: _version(DISTRIBUTION), **versions_of(exporter)},
        }
    )


def versions_of(exporter: Exporter) -> dict[str, str | None]:
    """Return the versions of the libraries that convert and compute; None: not installed."""
    return {each: _version(each) for each in ("torch", *exporter.requires, *exporter.libraries)}


def hash_of(about: Mapping[str, Any]) -> str:
    """Return a hash of JSON data, as text."""
    text = json.dumps(about, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _file_of(network: Network, name: str, exporter: Exporter) -> Path:
    return folder() / network_key(network, name, exporter) / f"network{exporter.suffix}"


@torch.no_grad()
def _width(network: Network) -> int:
    preprocess = network.preprocess
    blank = torch.zeros(1, preprocess.channels, *preprocess.height_width)
    rows: Tensor = network.module.eval()(blank)
    return rows.shape[1]


def _convert(network: Network, name: str, exporter: Exporter, file: Path) -> None:
    model = ExportableModel(network.module, network.preprocess)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        made_in = Path(tempfile.mkdtemp(dir=file.parent.parent, prefix=".converting-"))
        try:
            made = made_in / file.name
            with calling(name, exporter):
                exporter.write(model, model.example(), made, {})
            with replacing(_sum_of(file)) as beside:
                beside.write_text(_sha256(exporter.files(made)), encoding="ascii")
            for each, kept in zip(exporter.files(made), exporter.files(file), strict=True):
                each.replace(kept)
        finally:
            shutil.rmtree(made_in, ignore_errors=True)
        _forget_old(file.parent)
    except OSError as error:
        raise RunError(
            f"can't keep the converted network in {file.parent}: {error.strerror or error}"
        ) from error


def _forget_old(kept: Path) -> None:
    """Delete the networks that have not been used for longest."""

    def used(folder: Path) -> float:
        return max((file.stat().st_mtime for file in folder.glob("network*")), default=0.0)

    others = [each for each in kept.parent.iterdir() if each.is_dir() and each.name[0] != "."]
    for other in sorted(others, key=used, reverse=True)[_KEPT:]:
        if other != kept:
            shutil.rmtree(other, ignore_errors=True)


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


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
