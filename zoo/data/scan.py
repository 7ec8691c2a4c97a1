"""Scan for readable images: each sample is decoded once before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.cache.keys import image_key
from zoo.data.files import Fingerprint, fingerprint
from zoo.data.image import decoded, image_from_bytes, open_image
from zoo.data.issue import Issue
from zoo.data.sample import Sample
from zoo.data.sources import extensions
from zoo.errors import DataError
from zoo.io.text import printable


@dataclass(frozen=True, kw_only=True)
class Found:
    """Content of a usable file."""

    content: Fingerprint
    format: str


#: Content of a file, or the reason why it can't be used.
Verdict = Found | str

#: Function that examines files.
Scan = Callable[[Sequence[Path]], Mapping[Path, Verdict]]


def readable_images(samples: Sequence[Sample], scan: Scan) -> tuple[list[Sample], list[Issue]]:
    """Return (readable samples with `content` set, issues of all samples)."""
    looked = scan([sample.file for sample in samples if sample.file is not None])
    loaded = [sample for sample in samples if sample.file is None]
    with ThreadPoolExecutor() as pool:
        verdicts = dict(
            zip((s.name for s in loaded), pool.map(_look_at_bytes, loaded), strict=True)
        )
    readable: list[Sample] = []
    issues: list[Issue] = []
    for sample in samples:
        verdict = verdicts[sample.name] if sample.file is None else looked[sample.file]
        name = str(sample.where)
        if isinstance(verdict, str):
            reason = verdict.removeprefix(f"unreadable image {printable(name)}: ")
            issues.append(Issue(kind="unreadable", name=name, reason=reason))
            continue
        readable.append(replace(sample, content=verdict.content))
        if sample.file is not None and extensions.is_wrong(sample.file, verdict.format):
            reason = f"it holds {verdict.format}"
            issues.append(Issue(kind="wrong-extension", name=name, reason=reason))
    return readable, issues


def decode_all(files: Sequence[Path]) -> dict[Path, Verdict]:
    """Scan files by decoding every one, in threads."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(files, pool.map(_look, files), strict=True))


def _look(path: Path) -> Verdict:
    try:
        content = fingerprint(path)
        image = open_image(path, same=content)
        decoded(image, path)
    except DataError as error:
        return str(error)
    return Found(content=content, format=image.format or "")


def _look_at_bytes(sample: Sample) -> Verdict:
    try:
        data = sample.read()
        image_from_bytes(data, sample.name)
    except DataError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a plugin's source raises anything
        return f"unreadable image {printable(sample.name)}: {type(error).__name__}: {error}"
    return Found(content=Fingerprint(key=image_key(data), size=len(data), mtime_ns=0), format="")
