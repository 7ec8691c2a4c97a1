"""Which samples are images: each is decoded once, before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.cache.keys import image_key
from zoo.data import extensions
from zoo.data.extensions import Misnamed
from zoo.data.files import Fingerprint, fingerprint, shown
from zoo.data.image import decoded, image_from_bytes, open_image
from zoo.data.sample import Sample
from zoo.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file that can be used holds.

    Attributes:
        content: When it was decoded.
        misnamed: Set if its extension is that of another format.
    """

    content: Fingerprint
    misnamed: Misnamed | None = None


#: What a file holds, or why it can't be used.
Verdict = Found | str

#: Looks at files.
Scan = Callable[[Sequence[Path]], Mapping[Path, Verdict]]


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """What samples are.

    Attributes:
        readable: Those that are images, with what they hold.
        unreadable: What is wrong with each of the others.
        misnamed: Images of another format than their extension says, which are used all the same.
    """

    readable: tuple[Sample, ...]
    unreadable: tuple[str, ...]
    misnamed: tuple[Misnamed, ...]


def readable_images(samples: Sequence[Sample], scan: Scan, *, strict: bool = False) -> Scanned:
    """Which samples are images.

    Args:
        samples: That should be.
        scan: Looks at those that are files.
        strict: Make one that is no image, or has a wrong extension, an error.

    Raises:
        DataError: There is one (strict).
    """
    looked = scan([sample.file for sample in samples if sample.file is not None])
    loaded = [sample for sample in samples if sample.file is None]
    with ThreadPoolExecutor() as pool:
        verdicts: dict[str, Verdict] = dict(
            zip((s.name for s in loaded), pool.map(_look_at_bytes, loaded), strict=True)
        )
    each = [
        (sample, verdicts[sample.name] if sample.file is None else looked[sample.file])
        for sample in samples
    ]
    unreadable = tuple(verdict for _, verdict in each if isinstance(verdict, str))
    misnamed = tuple(v.misnamed for _, v in each if isinstance(v, Found) and v.misnamed)
    if strict and (unreadable or misnamed):
        raise DataError("\n".join([*unreadable, *extensions.describe(misnamed)]))
    return Scanned(
        readable=tuple(
            replace(sample, content=verdict.content)
            for sample, verdict in each
            if isinstance(verdict, Found)
        ),
        unreadable=unreadable,
        misnamed=misnamed,
    )


def decode_all(files: Sequence[Path]) -> dict[Path, Verdict]:
    """The scan that decodes every file, in threads."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(files, pool.map(_look, files), strict=True))


def _look(path: Path) -> Verdict:
    try:
        content = fingerprint(path)
        image = open_image(path, same=content)
        decoded(image, path)
    except DataError as error:
        return str(error)
    return Found(content=content, misnamed=extensions.misnamed(path, image.format or ""))


def _look_at_bytes(sample: Sample) -> Verdict:
    try:
        data = sample.read()
        image_from_bytes(data, sample.name)
    except DataError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a plugin's source raises anything
        return f"unreadable image {shown(sample.name)}: {type(error).__name__}: {error}"
    return Found(content=Fingerprint(key=image_key(data), size=len(data), mtime_ns=0))
