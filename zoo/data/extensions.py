"""Whether the extension of an image says what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from zoo.data.files import extension, shown

#: Formats that go by the name of another: phones write MPO, a JPEG with a second picture behind it,
#: as .jpg; a DIB is a BMP without its first 14 bytes, and both are found under both extensions.
_FAMILY = {"MPO": "JPEG", "DIB": "BMP"}

#: Where neither the format's own name nor the first extension that Pillow has for it is the usual.
_USUAL = {"JPEG": ".jpg", "PPM": ".pnm"}


@dataclass(frozen=True, kw_only=True)
class Misnamed:
    """An image of another format than its extension says.

    Attributes:
        path: Its file.
        format: Pillow's name of what it holds: JPEG, PNG ...
    """

    path: str
    format: str


def misnamed(path: str | Path, form: str) -> Misnamed | None:
    """What is wrong with the extension of an image; None if nothing is.

    Args:
        path: Its file.
        form: Pillow's name of what it holds.
    """
    named = Image.registered_extensions().get(extension(path), "")
    if _FAMILY.get(named, named) == _FAMILY.get(form, form):
        return None
    return Misnamed(path=str(path), format=form)


def extension_of(form: str) -> str:
    """The usual extension of a format, with its dot; empty if it has none.

    Args:
        form: Pillow's name of it.
    """
    form = _FAMILY.get(form, form)
    known = [each for each, of in Image.registered_extensions().items() if of == form]
    usual = _USUAL.get(form, f".{form.lower()}")
    return usual if usual in known else next(iter(known), "")


def describe(found: Sequence[Misnamed]) -> list[str]:
    """Which extensions are wrong and what to do: a line, or none.

    Args:
        found: Of a data folder.
    """
    if not found:
        return []
    first = found[0]
    if len(found) == 1:
        what = "1 image of another format than its extension says: "
    else:
        what = f"{len(found):,} images of another format than their extensions say, such as "
    todo = "zoo data check DIR --fix-to NEW_DIR writes copies with the right extension"
    return [f"{what}{shown(first.path)} is {first.format}; read as what it is; {todo}"]
