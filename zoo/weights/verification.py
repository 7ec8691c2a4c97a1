"""Check the weights files on this machine against their known SHA-256."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoo.backbone import Backbone
from zoo.errors import WeightsError
from zoo.weights.added import is_recorded, read_added
from zoo.weights.files import check_sha256, file_sha256
from zoo.weights.place import Place, places
from zoo.weights.shards import parts


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of checking a weights file.

    Attributes:
        place: Place of the file.
        state: `ok`, `damaged`, or `nothing to check against`.
        detail: What it was checked against, or what is wrong and what to do.
    """

    place: Place
    state: Literal["ok", "damaged", "nothing to check against"]
    detail: str


def verify(backbone: Backbone) -> list[Verdict]:
    """Check every weights file of the backbone that is on this machine, in order of `places`.

    A file is checked against the SHA-256 in its declaration, or its leading digits; a file added
    with `zoo weights add` against the SHA-256 recorded then; a file in the Hub's cache against the
    name of its blob, which for large files is the SHA-256.
    """
    return [verify_place(backbone, place) for place in places(backbone) if place.file is not None]


def verify_place(backbone: Backbone, place: Place) -> Verdict:
    """Check the file of one place, which must have one, as `verify` does."""
    file, declared = place.file or Path(), place.weights.sha256
    try:
        if place.kind == "added":
            read_added(backbone.name, file)
            if not is_recorded(file):
                return _unknown(place, "it does not say what its SHA-256 should be")
            return Verdict(place=place, state="ok", detail="sha256 as recorded when it was added")
        if declared is not None:
            check_sha256(file, declared)
            return Verdict(place=place, state="ok", detail=f"sha256 {declared}")
        if place.weights.hub is not None:
            # The index itself is a small file; the Hub gives the SHA-256 of those that it names.
            verdicts = [_verify_blob(place, part) for part in parts(file)[1:] or [file]]
            return next((v for v in verdicts if v.state != "ok"), verdicts[0])
    except WeightsError as error:
        return Verdict(place=place, state="damaged", detail=str(error))
    return _unknown(place, "no SHA-256 is published")


def _verify_blob(place: Place, file: Path) -> Verdict:
    """Check a Hub file by its name in the cache: SHA-256 of a large file, git's SHA-1 of others."""
    blob = file.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return _unknown(place, "the hub gave no SHA-256 of it")
    actual = file_sha256(blob)
    if actual == blob.name:
        return Verdict(place=place, state="ok", detail=f"sha256 {actual}")
    return Verdict(
        place=place,
        state="damaged",
        detail=f"{blob} is damaged: its SHA-256 is {actual}, by the hub it is {blob.name}; "
        f"delete it and fetch it again",
    )


def _unknown(place: Place, why: str) -> Verdict:
    return Verdict(place=place, state="nothing to check against", detail=why)
