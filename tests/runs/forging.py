"""Take a run's model.safetensors apart and put it together otherwise, with right checksums."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

from safetensors.torch import save_file

from zoo.runs.checkpoint_file import _sha256
from zoo.weights import tensors_sha256
from zoo.weights.header import METADATA_SHA256, metadata_sha256

MODEL = "model.safetensors"


def take_apart(file: Path) -> tuple[dict, bytes]:
    """(header, bytes of the tensors)."""
    return _parts(file.read_bytes())


def say_the_same(one: bytes, other: bytes) -> bool:
    """Whether two safetensors files differ in blanks within the header at most."""
    with suppress(ValueError, RecursionError):
        return one == other or _parts(one) == _parts(other)
    return False


def _parts(content: bytes) -> tuple[dict, bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def put_together(header: dict, tensors: bytes) -> bytes:
    """As safetensors writes it."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(
        errors="surrogatepass"
    )
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + tensors


def forge(file: Path, **changes: str | None) -> Path:
    """Other metadata (None: without it) in that file, as if zoo had written it."""
    header, tensors = take_apart(file)
    details = {**header["__metadata__"], **changes}
    header["__metadata__"] = {k: v for k, v in details.items() if v is not None}
    file.write_bytes(put_together(with_sums(header, tensors), tensors))
    return file


def with_sums(header: dict, tensors: bytes) -> dict:
    """The header with the SHA-256 of its metadata, and of the tensors where they can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    details = header["__metadata__"]
    with suppress(SafetensorError, ValueError, TypeError, RuntimeError, KeyError, AttributeError):
        details = {**details, "sha256": tensors_sha256(load(put_together(header, tensors)))}
    return {**header, "__metadata__": {**details, METADATA_SHA256: metadata_sha256(details)}}


def copy(run, folder: Path) -> Path:
    """A copy of a finished run's folder, to be changed."""
    return Path(shutil.copytree(run.path, folder / "copy"))


def forge_checkpoint(path: Path, tensors: dict, about: object) -> None:
    """As `write_checkpoint`, but that it is not read back, which refuses some of this."""
    text = json.dumps(about)
    details = {"zoo_checkpoint": "1", "about": text, "sha256": _sha256(tensors, text)}
    save_file(tensors, path, metadata=details)
