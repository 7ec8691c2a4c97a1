"""Scan for readable images: each sample is decoded once before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from PIL import ImageFile

from zoo.cache.keys import image_key
from zoo.data.files import Fingerprint, fingerprint
from zoo.data.image import decoded, open_content, open_image
from zoo.data.issue import Issue
from zoo.data.sample import Sample
from zoo.data.sources import extensions
from zoo.errors import DataError
from zoo.io.text import printable


@dataclass(frozen=True, kw_only=True)
class Found:
    """Content of a usable image."""

    content: Fingerprint
    format: str


#: Content of an image, or the reason why it can't be used.
Verdict = Found | str

#: Function that examines samples, and returns a verdict for each.
Scan = Callable[[Sequence[Sample]], Sequence[Verdict]]


def readable_images(samples: Sequence[Sample], scan: Scan) -> tuple[list[Sample], list[Issue]]:
    """Return (readable samples with `content` set, issues of all samples)."""
    readable: list[Sample] = []
    issues: list[Issue] = []
    for sample, verdict in zip(samples, scan(samples), strict=True):
        name = str(sample.where)
        if isinstance(verdict, str):
            reason = verdict.removeprefix(f"unreadable image {printable(name)}: ")
            issues.append(Issue(kind="unreadable", name=name, reason=reason))
            continue
        readable.append(replace(sample, content=verdict.content))
        named = sample.file is not None or extensions.is_image_name(sample.name)
        if named and extensions.is_wrong(name, verdict.format):
            reason = f"it holds {verdict.format}"
            issues.append(Issue(kind="wrong-extension", name=name, reason=reason))
    return readable, issues


def decode_all(samples: Sequence[Sample], *, channels: int = 3) -> list[Verdict]:
    """Scan samples by decoding every one for a network of that many channels, in threads."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(_look, channels=channels), samples))


def opened(sample: Sample) -> tuple[Fingerprint, ImageFile.ImageFile]:
    """Return the fingerprint of a sample's image, and the image opened without decoding it.

    Raises:
        DataError: It can't be read or opened.
    """
    if sample.file is not None:
        content = fingerprint(sample.file)
        return content, open_image(sample.file, same=content)
    try:
        data = sample.read()
    except DataError:
        raise
    except Exception as error:
        # A plugin's source raises anything.
        raise DataError(
            f"unreadable image {printable(sample.name)}: {type(error).__name__}: {error}"
        ) from error
    content = Fingerprint(key=image_key(data), size=len(data), mtime_ns=0)
    return content, open_content(data, sample.name)


def _look(sample: Sample, *, channels: int) -> Verdict:
    try:
        content, image = opened(sample)
        decoded(image, sample.where, channels=channels)
    except DataError as error:
        return str(error)
    return Found(content=content, format=image.format or "")
