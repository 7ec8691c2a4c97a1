"""Check that all processes that train a model together see the same images."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from accelerate import Accelerator

from zoo.data.decoded import content_keys
from zoo.data.sample import Sample
from zoo.data.split import Splits
from zoo.errors import DataError
from zoo.io.text import listed
from zoo.machine.processes import exchange, together


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """The data as one process sees it."""

    host: str
    classes: tuple[str, ...]
    images: tuple[int, int, int]
    names: str
    contents: str

    def differences(self, main: _Seen) -> list[str]:
        """List how it differs from what the main process sees.

        If classes or numbers differ, names and contents are left out, since they follow from that.
        """
        found = []
        if self.classes != main.classes:
            extra = [name for name in self.classes if name not in main.classes]
            missing = [name for name in main.classes if name not in self.classes]
            named = [f"has {listed(extra)}"] if extra else []
            named += [f"lacks {listed(missing)}"] if missing else []
            found.append(f"classes ({', '.join(named) or 'in another order'})")
        if self.images != main.images:
            (train, val, rest), (main_train, main_val, main_rest) = self.images, main.images
            more, main_more = (f", {n} unlabelled" if n else "" for n in (rest, main_rest))
            found.append(
                f"number of images ({train} train and {val} val{more} instead of {main_train} and "
                f"{main_val}{main_more})"
            )
        if not found and self.names != main.names:
            found.append("names of images")
        if not found and self.contents != main.contents:
            found.append("contents of images")
        return found


def check_same_data(accelerator: Accelerator, splits: Splits) -> None:
    """Check that all processes have the same classes and images, in the same order.

    Raises:
        DataError: They do not (raised in every process), or an image can't be read.
    """
    if accelerator.num_processes == 1:
        return
    everywhere = exchange(together(lambda: _seen(splits)))
    main = everywhere[0]
    lines = []
    for rank, seen in enumerate(everywhere):
        if differences := seen.differences(main):
            lines.append(f"\n  process {rank} on {seen.host}: other {', other '.join(differences)}")
    if lines:
        error = DataError(
            f"the processes of this run see different data than process 0 on {main.host}:"
            f"{''.join(lines)}",
            hint="give all of them the same files, or one folder that all of them see",
        )
        error.shared = True
        raise error


def _seen(splits: Splits) -> _Seen:
    parts = [splits.train, splits.val, splits.unlabelled]
    return _Seen(
        host=platform.node(),
        classes=splits.class_names,
        images=(len(splits.train), len(splits.val), len(splits.unlabelled)),
        names=_digest(
            [os.fsencode(f"{sample.label}/{sample.name}") for sample in part] for part in parts
        ),
        contents=_digest(_contents(part) for part in parts),
    )


def _contents(samples: Sequence[Sample]) -> list[bytes]:
    """Return the key of each image, or its size: paths and times differ between machines."""
    return [
        key if sample.content is None or sample.content.hashed else b"%d" % sample.content.size
        for sample, key in zip(samples, content_keys(samples), strict=True)
    ]


def _digest(parts: Iterable[Sequence[bytes]]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for entry in part:
            digest.update(len(entry).to_bytes(8, "big") + entry)
    return digest.hexdigest()
