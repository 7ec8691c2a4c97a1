"""Where weights come from: found, fetched, checked by SHA-256, read without running their code."""

from __future__ import annotations

import hashlib
import re
import socket
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from zoo import plugins
from zoo.backbone import Backbone, Weights
from zoo.errors import PluginError, WeightsError, WeightsUnavailableError

if TYPE_CHECKING:
    from torch import Tensor

    StateDict = dict[str, Tensor]

#: Keys under which common training scripts nest the model's state dict in a checkpoint.
_NESTED = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """A state dict, and in words where it came from.

    Attributes:
        state_dict: Tensors by name, original head included; None for random weights.
        source: For the plan and the run's record.
    """

    state_dict: StateDict | None
    source: str


def load(backbone: Backbone, weights: str) -> LoadedWeights:
    """The weights to start from.

    Args:
        backbone: Whose weights.
        weights: `pretrained`, `none` (random), or a path: a .safetensors or PyTorch file, or a run
            folder.

    Raises:
        WeightsUnavailableError: Pretrained weights are not on this machine and can't be fetched.
        WeightsError: There are none, or the file can't be read.
    """
    if weights == "none":
        return LoadedWeights(state_dict=None, source="random")
    if weights != "pretrained":
        path = Path(weights).expanduser()
        path = path / "model.safetensors" if is_file(path / "model.safetensors") else path
        state_dict = plugins.convert(backbone, read_state_dict(path))
        return LoadedWeights(state_dict=state_dict, source=f"file {path}")
    if backbone.weights is None:
        raise WeightsError(
            f"backbone {backbone.name} has no pretrained weights; "
            f"start from --weights none, or from --weights FILE"
        )
    try:
        model = plugins.build(backbone, None, True)
    except PluginError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise _unavailable(backbone, backbone.weights, error.__cause__) from error
    except WeightsUnavailableError as error:
        raise _unavailable(backbone, backbone.weights, error) from error
    return LoadedWeights(state_dict=dict(model.state_dict()), source=describe(backbone.weights))


def describe(weights: Weights) -> str:
    """One line: which weights and where from."""
    return (
        f"pretrained ({weights.tag}), {weights.place}"
        if weights.tag
        else f"pretrained, {weights.place}"
    )


def fetch(weights: Weights) -> Path:
    """The file of weights that come by URL, downloaded into torch.hub's cache if it isn't there.

    Its SHA-256 is checked every time, as far as `weights.sha256` is published.

    Raises:
        WeightsUnavailableError: It is not in the cache and could not be downloaded.
        WeightsError: The cached file's SHA-256 is another than the published one.
    """
    import torch.hub

    if weights.url is None:
        raise ValueError("fetch is for weights that come by URL")
    path = cache_path(weights)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                weights.url, str(path), weights.sha256, progress=sys.stderr.isatty()
            )
        except OSError as error:
            raise WeightsUnavailableError(f"{weights.url}: {error}") from error
        except RuntimeError as error:
            raise WeightsUnavailableError(
                f"{weights.url} gave another file than was published, now deleted: {error}"
            ) from error
    elif weights.sha256 is not None:
        check_sha256(path, weights.sha256)
    return path


def is_here(weights: Weights) -> bool:
    """Whether the file is on this machine already."""
    if weights.url is not None:
        return cache_path(weights).exists()
    if weights.path is not None:
        return is_file(Path(weights.path))
    if weights.hub is not None:
        from huggingface_hub import try_to_load_from_cache

        names = (weights.file,) if weights.file else ("model.safetensors", "pytorch_model.bin")
        return any(isinstance(try_to_load_from_cache(weights.hub, name), str) for name in names)
    try:
        return bool(metadata.version(weights.package or ""))
    except metadata.PackageNotFoundError:
        return False


def check_sha256(path: Path, expected: str) -> None:
    """Compare the file's SHA-256 with the published one, or its leading hex digits.

    Raises:
        WeightsError: They differ.
    """
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(expected.lower()):
        raise WeightsError(
            f"{path} is damaged or not what it should be: its SHA-256 is {actual}, "
            f"published is {expected}; delete it and start again"
        )


def read_state_dict(path: Path) -> StateDict:
    """Read a state dict from a .safetensors or a PyTorch file, without running code in it.

    A checkpoint that nests its state dict (`state_dict`, `model`, `model_state_dict`) is unwrapped,
    and the `module.` that data-parallel training puts before every name is taken off.

    Raises:
        WeightsError: No such file, or no state dict can be read from it.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not is_file(path):
        raise WeightsError(f"no weights file {path}; give pretrained, none, or an existing file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is no readable safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes make it raise
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it asks to run {wanted[1]}" if wanted else "it is no PyTorch file, or a damaged one"
        raise WeightsError(
            f"{path} can't be read as plain tensors: {why}; zoo runs no code from a weights file. "
            f"Save its state_dict() as .safetensors where it was made"
        ) from error
    return _state_dict_in(content, path)


def is_file(path: Path) -> bool:
    """Whether there is such a file; False too where that can't be known."""
    try:
        return path.is_file()
    except OSError:
        return False


def cache_path(weights: Weights) -> Path:
    """Where torch.hub keeps (or will keep) the file of weights that come by URL."""
    import torch.hub

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(weights.url or "").path).name


def is_reachable(url: str, timeout: float = 3.0) -> bool:
    """Whether the host of `url` accepts a connection, or a proxy is set that may reach it.

    Args:
        url: With scheme and host.
        timeout: In seconds.
    """
    parts = urlsplit(url)
    if parts.hostname is None:
        return False
    if parts.scheme in urllib.request.getproxies():
        return True
    port = parts.port or {"http": 80}.get(parts.scheme, 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=timeout).close()
    except OSError:
        return False
    return True


def _state_dict_in(content: object, path: Path) -> StateDict:
    import torch

    if isinstance(content, Mapping):
        nested = [content[k] for k in _NESTED if isinstance(content.get(k), Mapping)]
        content = nested[0] if len(nested) == 1 else content
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no state dict but {type(content).__name__}")
    strangers = [
        str(k) for k, v in content.items() if not isinstance(v, torch.Tensor) or k != str(k)
    ]
    if strangers:
        raise WeightsError(
            f"{path} holds no plain state dict: {', '.join(strangers[:5])} "
            f"{'is no named tensor' if len(strangers) == 1 else 'are no named tensors'}"
        )
    if all(str(k).startswith("module.") for k in content):
        return {str(k).removeprefix("module."): v for k, v in content.items()}
    # As it is: torch's own dict carries versions that some modules ask for while loading.
    return content if isinstance(content, dict) else dict(content)


def _unavailable(
    backbone: Backbone, weights: Weights, cause: BaseException
) -> WeightsUnavailableError:
    return WeightsUnavailableError(
        f"the pretrained weights of {backbone.name} are not on this machine "
        f"and could not be fetched.\n"
        f"  looked in: {_cached_at(weights)}\n"
        f"  then at:   {weights.place}\n"
        f"  answer:    {str(cause).splitlines()[0] if str(cause) else type(cause).__name__}\n"
        f"  ways out:  run once where there is a network, and copy the cache here;\n"
        f"             --weights FILE with the weights in a file (.safetensors or .pth);\n"
        f"             --backbone efficientnet_lite0, whose weights come with zoo;\n"
        f"             --weights none to start from random weights"
    )


def _cached_at(weights: Weights) -> str:
    if weights.url is not None:
        return str(cache_path(weights))
    if weights.hub is not None:
        from huggingface_hub.constants import HF_HUB_CACHE

        return str(Path(HF_HUB_CACHE) / f"models--{weights.hub.replace('/', '--')}")
    try:
        return f"installed package {weights.package} {metadata.version(weights.package or '')}"
    except metadata.PackageNotFoundError:
        return f"installed package {weights.package}, which is not installed"
