"""Take a run's model.safetensors apart and put it together otherwise, with or without its seal."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from zoo.runs.checkpoint_file import _sha256
from zoo.weights import tensors_sha256
from zoo.weights.header import SEAL, UNSEALED, seal, seal_file

MODEL = "model.safetensors"


def take_apart(file: Path) -> tuple[dict, bytes]:
    """(header, bytes of the tensors)."""
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def put_together(header: dict, tensors: bytes, *, sealed: bool = True) -> bytes:
    """As safetensors writes it; sealed, as zoo does."""
    if sealed and isinstance(header.get("__metadata__"), dict):
        header = {**header, "__metadata__": {**header["__metadata__"], SEAL: UNSEALED}}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(
        errors="surrogatepass"
    )
    text += b" " * (-len(text) % 8)
    content = len(text).to_bytes(8, "little") + text + tensors
    return b"".join(seal(content)) if sealed else content


def forge(file: Path, **changes: str | None) -> Path:
    """Other metadata (None: without it) in that file, sealed as if zoo had written it."""
    header, tensors = take_apart(file)
    details = {**header["__metadata__"], **changes}
    header["__metadata__"] = {k: v for k, v in details.items() if v is not None}
    file.write_bytes(put_together(header, tensors))
    return file


def with_sums(header: dict, tensors: bytes) -> dict:
    """The header with the tensors' own SHA-256, where they can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        digest = tensors_sha256(load(put_together(header, tensors, sealed=False)))
    except (SafetensorError, ValueError, TypeError, RuntimeError, KeyError, AttributeError):
        return header
    return {**header, "__metadata__": {**header["__metadata__"], "sha256": digest}}


def copy(run, folder: Path) -> Path:
    """A copy of a finished run's folder, to be changed."""
    return Path(shutil.copytree(run.path, folder / "copy"))


def forge_checkpoint(path: Path, tensors: dict, about: object) -> None:
    """As `write_checkpoint`, but that it is not read back, which refuses some of this."""
    text = json.dumps(about)
    details = {"zoo_checkpoint": "1", "about": text, "sha256": _sha256(tensors, text)}
    save_file(tensors, path, metadata={**details, SEAL: UNSEALED})
    seal_file(path)
