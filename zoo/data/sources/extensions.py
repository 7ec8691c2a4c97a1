"""File extensions: supported image formats, their usual extensions, and unsupported files."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from PIL import Image

from zoo.data.files import extension
from zoo.data.image import formats
from zoo.io.text import printable

#: Formats treated as another: phones write MPO, a JPEG followed by a second image, as .jpg; a DIB
#: is a BMP without its first 14 bytes, and both occur with both extensions.
_FAMILY = {"MPO": "JPEG", "DIB": "BMP"}

#: Usual extensions that are neither the format's name nor the first one registered in Pillow.
_USUAL = {"JPEG": ".jpg", "PPM": ".pnm"}

#: Reason for files without a known image extension.
NO_IMAGE = "not an image"

_REASONS = (
    (".heic .heif .hif", "HEIC needs pi-heif or pillow-heif: pip install 'zoo-finetune[heic]'"),
    (".jxl", "JPEG XL, which Pillow does not read: convert to PNG or JPEG"),
    (
        ".3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .mrw .nef .nrw .orf .pef .raf .raw .rw2 .srw .x3f",
        "camera raw: develop to JPEG or TIFF",
    ),
    (".dcm .nii", "medical volumes: export the slices as PNG, 16 bits are kept"),
    (".mat .npy .npz", "arrays: save them as PNG or TIFF"),
    (".avi .m4v .mkv .mov .mp4 .mpeg .mpg .webm .wmv", "videos: extract the frames as images"),
    (".ai .eps .emf .pdf .svg .wmf", "documents or vector graphics: render them as PNG"),
    (
        ".blp .bufr .cur .fli .flc .fpx .grib .h5 .hdf .icns .ico .iptc .mic",
        "a format that zoo does not decode: convert to PNG",
    ),
)

_REASON_OF = {e: reason for extensions, reason in _REASONS for e in extensions.split()}


def is_image_name(path: str | Path) -> bool:
    """Whether the file has the extension of a supported image format."""
    return extension(path) in _of_images()


def is_wrong(path: str | Path, form: str) -> bool:
    """Whether an image has the extension of another format; without any, it has not.

    Args:
        path: Image file.
        form: Pillow's name of its actual format.
    """
    suffix = extension(path)
    named = Image.registered_extensions().get(suffix, "")
    return bool(suffix) and _FAMILY.get(named, named) != _FAMILY.get(form, form)


def extension_of(form: str) -> str:
    """Return the usual extension of a format, with its dot; empty if it has none.

    Args:
        form: Pillow's name of the format.
    """
    form = _FAMILY.get(form, form)
    known = [each for each, of in Image.registered_extensions().items() if of == form]
    usual = _USUAL.get(form, f".{form.lower()}")
    return usual if usual in known else next(iter(known), "")


def reason_of(path: PurePath) -> str:
    """Return the reason for skipping a file without an image extension."""
    return _REASON_OF.get(path.suffix.lower(), NO_IMAGE)


def skipped(paths: Iterable[PurePath]) -> list[str]:
    """Summarise skipped files: a line for each reason, with counts by extension."""
    by_reason: dict[str, list[str]] = {}
    for suffix, count in Counter(path.suffix.lower() for path in paths).most_common():
        counted = f"{count:,} {printable(suffix) or 'without an extension'}"
        by_reason.setdefault(reason_of(PurePath(f"x{suffix}")), []).append(counted)
    return [f"{', '.join(counted)}: {reason}" for reason, counted in by_reason.items()]


@functools.cache
def _of_images() -> frozenset[str]:
    # Pillow opens MPO with its JPEG decoder and does not list MPO itself.
    known = {*formats(), "MPO"}
    return frozenset(e for e, form in Image.registered_extensions().items() if form in known)
