"""Files that are passed over: how many of each kind, why, and what would help."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from zoo.data.files import shown

#: Modules that teach Pillow to read HEIC; the first is what the extra `heic` installs.
HEIC_READERS = ("pi_heif", "pillow_heif")

HEIC = frozenset({".heic", ".heif", ".hif"})

#: Of what is none, by its name.
NO_IMAGE = "not an image"

_HEIC_REASON = "HEIC needs pi-heif or pillow-heif: pip install 'zoo-finetune[heic]'"

_REASONS = (
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


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Files of one extension that were passed over.

    Attributes:
        extension: In lower case, with its dot; empty for files without one.
        count: How many.
        reason: Why, and what to do about it.
    """

    extension: str
    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.count:,} {shown(self.extension) or 'without an extension'}: {self.reason}"


def reason_of(path: PurePath) -> str:
    """Why a file whose name is that of no image is passed over."""
    extension = path.suffix.lower()
    if extension in HEIC:
        return _HEIC_REASON
    return _REASON_OF.get(extension, NO_IMAGE)


def skipped(paths: Iterable[PurePath]) -> tuple[Skipped, ...]:
    """Counts of passed-over files by extension, the most frequent first."""
    counts = Counter(path.suffix.lower() for path in paths)
    return tuple(
        Skipped(extension=extension, count=count, reason=reason_of(PurePath(f"x{extension}")))
        for extension, count in counts.most_common()
    )


def describe(found: Iterable[Skipped]) -> list[str]:
    """A line for each reason, with the counts of its extensions."""
    by_reason: dict[str, list[Skipped]] = {}
    for each in found:
        by_reason.setdefault(each.reason, []).append(each)
    return [
        ", ".join(f"{e.count:,} {shown(e.extension) or 'without an extension'}" for e in group)
        + f": {reason}"
        for reason, group in by_reason.items()
    ]


def heic_reader() -> str | None:
    """The module that teaches Pillow to read HEIC, if one is installed."""
    return next((name for name in HEIC_READERS if importlib.util.find_spec(name)), None)
