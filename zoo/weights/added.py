"""The weights files that users add with `zoo weights add`, one per backbone."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from zoo.backbone import Backbone, Weights
from zoo.errors import WeightsError
from zoo.io.files import expand, home, is_file, replacing
from zoo.weights.files import file_sha256, fit, read_state_dict, tensors_sha256
from zoo.weights.retrieval import locate

if TYPE_CHECKING:
    from torch import Tensor

    StateDict = dict[str, Tensor]


#: Origin of an added file, as shown to the user.
ADDED = "added with `zoo weights add`"


@dataclass(frozen=True, kw_only=True)
class Added:
    """A file that was added to zoo's weights folder.

    Attributes:
        path: Path of the file.
        notes: Notes for the user who added it.
    """

    path: Path
    notes: tuple[str, ...]


def added_path(name: str) -> Path:
    """Return the path of the file added for a backbone (by full name), whether or not it exists."""
    return home() / "weights" / f"{name}.safetensors"


def added() -> dict[str, Path]:
    """Return all added files, by the backbone's full name."""
    folder = home() / "weights"
    return {
        f"{path.parent.name}/{path.name.removesuffix('.safetensors')}": path
        for path in sorted(folder.glob("*/*.safetensors"))
    }


def add(backbone: Backbone, file: Path) -> Added:
    """Make `file` the pretrained weights of `backbone` on this machine, replacing an earlier one.

    It is converted, loaded strictly into the original model, and written as .safetensors.

    Args:
        backbone: The backbone.
        file: A .safetensors or PyTorch file that fits it, original head included.

    Raises:
        WeightsError: If the file can't be read or doesn't fit, or the copy can't be written.
        PluginError: If the plugin can't convert the file or build the model.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    fitted = fit(backbone, read_state_dict(file), source=f"file {file}")
    # Copied, because safetensors refuses tensors that share memory (tied weights).
    tensors = {
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, t in fitted.items()
    }
    digest = file_sha256(file)
    path = added_path(backbone.name)
    notes = _differs(backbone, file, digest)
    if is_file(path):
        notes += (f"it replaces the one from {origin(path) or 'an unknown file'}",)
    details = {
        "format": "pt",
        "backbone": backbone.name,
        "from": json.dumps(os.path.realpath(expand(file))),
        "from_sha256": digest,
        "sha256": tensors_sha256(tensors),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            save_file(tensors, beside, metadata=details)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"can't write {path}: {error}") from error
    return Added(path=path, notes=notes)


def remove(name: str) -> Path:
    """Delete the file that was added for the backbone of that full name.

    Raises:
        WeightsError: If there is none, or it can't be deleted.
    """
    path = added().get(name)
    if path is None:
        raise WeightsError(
            f"no weights were added for {name}: there is no {added_path(name)}; "
            f"`zoo weights list` shows what there is"
        )
    try:
        path.unlink()
    except OSError as error:
        raise WeightsError(f"can't delete {path}: {error.strerror}") from error
    return path


def origin(path: Path) -> str | None:
    """Return the file from which an added one was made, or None if this can't be read."""
    text = _details(path).get("from")
    return None if text is None else str(json.loads(text))


def read_added(name: str, path: Path) -> StateDict:
    """Read the tensors of an added file and check them against the recorded SHA-256.

    Raises:
        WeightsError: If it can't be read, or its tensors have changed.
    """
    advice = f"`zoo weights add {name} FILE` replaces it, `zoo weights remove {name}` takes it out"
    try:
        state_dict = read_state_dict(path)
    except WeightsError as error:
        raise WeightsError(error.text, hint=advice) from error
    recorded = _details(path).get("sha256")
    if recorded is not None and tensors_sha256(state_dict) != recorded:
        raise WeightsError(
            f"{path} is damaged: its tensors are not those that were recorded", hint=advice
        )
    return state_dict


def is_recorded(path: Path) -> bool:
    """Return whether an added file records its SHA-256."""
    return "sha256" in _details(path)


def _details(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def _differs(backbone: Backbone, file: Path, digest: str) -> tuple[str, ...]:
    """Return a note if the library's own file of the same format differs."""
    own = backbone.weights
    if own is None or own.sha256 is None or digest.startswith(own.sha256.lower()):
        return ()
    if _suffix(own) not in (None, file.suffix):
        return ()
    return (
        f"it is another file than {own.place}: its SHA-256 is {digest}, published is {own.sha256}",
    )


def _suffix(weights: Weights) -> str | None:
    found = locate(weights, own=True)
    name = weights.file or weights.path or urlsplit(weights.url or "").path or str(found or "")
    return Path(name).suffix or None
