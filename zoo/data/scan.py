"""Scan for readable images: all samples are decoded once before training, some, or none."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from PIL import ImageFile

from zoo.cache.keys import image_key
from zoo.data.columns import Columns
from zoo.data.files import Fingerprint, fingerprint, listed
from zoo.data.image import decoded, open_content, open_image
from zoo.data.issue import Issue
from zoo.data.sample import Sample
from zoo.data.sources import extensions
from zoo.errors import DataError, UnavailableError
from zoo.io.text import printable

#: Which images are decoded before training: the recipe's `scan`.
Mode = Literal["full", "sample", "none"]

#: Images of each class that are decoded with `scan=sample`, and the most of a split.
SAMPLED, MOST_SAMPLED = 10, 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Content of a usable image.

    Attributes:
        content: Its fingerprint; None if the image has not been read, and has no stamp.
        format: Pillow's format; empty if the image has not been read.
    """

    content: Fingerprint | None
    format: str


#: Content of an image, or the reason why it can't be used.
Verdict = Found | str

#: Function that examines samples, and gives a verdict for each, in order.
Scan = Callable[[Sequence[Sample]], Iterable[Verdict]]


def readable_images(samples: Sequence[Sample], scan: Scan) -> tuple[Sequence[Sample], list[Issue]]:
    """Return (readable samples with `content` set, issues of all samples)."""
    issues: list[Issue] = []
    found = _readable(samples, scan, issues)
    if isinstance(samples, Columns):
        return samples.with_contents(found), issues
    return [replace(samples[n], content=content) for n, content in found], issues


def _readable(
    samples: Sequence[Sample], scan: Scan, issues: list[Issue]
) -> Iterator[tuple[int, Fingerprint | None]]:
    """Yield (position, content) of readable images, and append to `issues`."""
    # Samples of columns are made on access.
    for n, verdict in zip(range(len(samples)), scan(samples), strict=True):
        if isinstance(verdict, str):
            name = str(samples[n].where)
            reason = verdict.removeprefix(f"unreadable image {printable(name)}: ")
            issues.append(Issue(kind="unreadable", name=name, reason=reason))
            continue
        if verdict.format and (wrong := _wrong_extension(samples[n], verdict.format)):
            issues.append(wrong)
        yield n, verdict.content


def _wrong_extension(sample: Sample, form: str) -> Issue | None:
    name = str(sample.where)
    named = sample.file is not None or extensions.is_image_name(sample.name)
    if not named or not extensions.is_wrong(name, form):
        return None
    return Issue(kind="wrong-extension", name=name, reason=f"it holds {form}")


def decode_all(samples: Sequence[Sample], *, channels: int = 3) -> list[Verdict]:
    """Scan samples by decoding every one for a network of that many channels, in threads."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(_look, channels=channels), samples))


def partial_scan(mode: Mode, scan: Scan) -> Scan:
    """Return a scan of all images, some or none; the others are identified without reading them.

    Of each class, `SAMPLED` images are scanned with `sample`, but no more than `MOST_SAMPLED`
    altogether: those of the smallest hashes of their names, so that a resumed run scans the same.
    An image that is not read counts as readable, and its stamp, or the path, size and modification
    time of its file, stand for its content.

    Args:
        mode: As in the recipe.
        scan: Scans those that are read.
    """

    def some(samples: Sequence[Sample]) -> Iterator[Verdict]:
        read = _chosen(samples)
        known = dict(zip(read, scan([samples[n] for n in read]), strict=True))
        holders: dict[Path, os.stat_result] = {}
        for n, sample in enumerate(samples):
            yield known[n] if n in known else _unread(sample, holders)

    return {"full": scan, "sample": some, "none": list_alone}[mode]


def list_alone(samples: Sequence[Sample]) -> Iterator[Verdict]:
    """Scan samples without reading any."""
    holders: dict[Path, os.stat_result] = {}
    return (_unread(sample, holders) for sample in samples)


def _chosen(samples: Sequence[Sample]) -> list[int]:
    """Return the positions of the samples that are scanned with `sample`."""
    # Heaps of (-rank, -position), whose smallest item is the first to be replaced.
    by_class: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for n, sample in enumerate(samples):
        digest = hashlib.blake2b(os.fsencode(f"scan/{sample.name}"), digest_size=8).digest()
        for label in sample.labels or ("",):
            members = by_class[label]
            push = heapq.heappush if len(members) < SAMPLED else heapq.heappushpop
            push(members, (-int.from_bytes(digest, "big"), -n))
    chosen = {each for members in by_class.values() for each in members}
    return sorted(-n for _, n in heapq.nlargest(MOST_SAMPLED, chosen))


def _unread(sample: Sample, holders: dict[Path, os.stat_result]) -> Verdict:
    """Identify an image that is not read; `holders` keeps what is known of files with several."""
    try:
        if sample.file is not None:
            return Found(content=listed(sample.file), format="")
    except DataError as error:
        return str(error)
    if not sample.stamp:
        return Found(content=None, format="")
    size = mtime_ns = 0
    if (holder := sample.holder) is not None:
        try:
            if holder not in holders:
                holders[holder] = holder.stat()
        except OSError as error:
            return f"{printable(holder)}: {error.strerror or error}"
        size, mtime_ns = holders[holder].st_size, holders[holder].st_mtime_ns
    content = Fingerprint(key=sample.stamp, size=size, mtime_ns=mtime_ns, hashed=False)
    return Found(content=content, format="")


def is_read(sample: Sample) -> bool:
    """Whether an image has been read before training, so that its content is known."""
    return sample.content is not None and sample.content.hashed


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
    except UnavailableError:
        raise
    except DataError as error:
        return str(error)
    return Found(content=content, format=image.format or "")
