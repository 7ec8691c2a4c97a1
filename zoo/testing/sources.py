"""Checks of a data source: what it opens, its samples and their images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.reduction import ForkingPickler
from typing import ClassVar, cast

from zoo.data.image import image_from_bytes
from zoo.data.issue import Issue
from zoo.data.sample import Sample
from zoo.data.sources import Part, Source, issues_of
from zoo.errors import DataError
from zoo.io.text import count
from zoo.plugins import explain
from zoo.testing.subject import CheckFailed, Kind

#: The splits that zoo knows.
SPLITS = ("train", "val", "test")

#: What `data` may name that is for no source.
OTHERS = ("no-such-folder", "no-such-source:photos")

#: Number of samples of each split whose images are read.
READ = 5

#: Exit code of a process that can't import the source, such as a function of a notebook.
_NOT_THERE = 3

#: Prints split, name, labels and group of each sample, in a process of its own.
_LIST = f"""
import contextlib, json, sys
from multiprocessing.reduction import ForkingPickler
with contextlib.redirect_stdout(sys.stderr):
    try:
        opener, data = ForkingPickler.loads(sys.stdin.buffer.read())
    except Exception:
        sys.exit({_NOT_THERE})
    source = opener(data)
    parts = [(split, source.read(split).samples) for split in source.splits]
    found = [[split, s.name, list(s.labels), s.group] for split, part in parts for s in part]
print(json.dumps(found))
"""


@dataclass
class SourceSubject:
    """A data source under test."""

    kind: ClassVar[Kind] = "source"
    shapes_only: ClassVar[bool] = False

    name: str
    opener: Callable[[str], object]
    data: str

    @cached_property
    def source(self) -> Source:
        """What it opens for `data`."""
        return cast("Source", self.opener(self.data))

    @cached_property
    def parts(self) -> Mapping[str, Part]:
        """What it reads, by split."""
        return {split: self.source.read(split) for split in self.source.splits}

    @property
    def samples(self) -> list[Sample]:
        """The samples of all splits."""
        return [sample for part in self.parts.values() for sample in part.samples]

    @property
    def some(self) -> Iterator[Sample]:
        """A few samples of each split, the first and the last among them."""
        for part in self.parts.values():
            most = len(part.samples) - 1
            for n in sorted({most * n // (READ - 1) for n in range(READ)}):
                yield part.samples[n]


def check_data_is_opened(subject: SourceSubject) -> None:
    """For data of its own it gives a source, whose splits are of `train`, `val` and `test`."""
    source = subject.source
    missing = [name for name in ("name", "splits", "read") if not hasattr(source, name)]
    if missing:
        raise CheckFailed(
            f"for {subject.data!r} it gives {source!r}, which has no {', '.join(missing)}: return "
            f"an object with `name`, `splits` and `read(split)`"
        )
    splits = source.splits
    if isinstance(splits, str) or not isinstance(splits, Sequence):
        raise CheckFailed(f"its splits are {splits!r}: make them a tuple, such as ('train',)")
    if "train" not in splits or set(splits) - set(SPLITS) or len(set(splits)) < len(splits):
        raise CheckFailed(
            f"its splits are {', '.join(map(repr, splits)) or 'none'}: declare 'train', and 'val' "
            f"and 'test' if it has them, each once; unsplit data is 'train'"
        )


def check_other_data_is_left_to_others(subject: SourceSubject) -> None:
    """For data that is not for it, it gives None, and raises nothing."""
    for data in OTHERS:
        try:
            found = subject.opener(data)
        except Exception as error:
            raise CheckFailed(
                f"for {data!r}, which is not for it, it raises {explain(error)}: return None"
            ) from error
        if found is not None:
            raise CheckFailed(
                f"for {data!r}, which is not for it, it gives {found!r}: return None unless `data` "
                f"begins with a prefix of your own"
            )


def check_splits_are_read(subject: SourceSubject) -> None:
    """Each declared split is read as a `zoo.Part` of samples, and none is empty."""
    for split, part in subject.parts.items():
        if not isinstance(part, Part):
            raise CheckFailed(f"read({split!r}) gives a {type(part).__name__}: return a zoo.Part")
        wrong = [type(s).__name__ for s in part.samples if not isinstance(s, Sample)]
        if wrong:
            raise CheckFailed(f"read({split!r}) has a {wrong[0]} among its samples: use zoo.Sample")
        if not part.samples:
            raise CheckFailed(f"read({split!r}) has no samples: declare only splits that have some")
    of_parts = [issue for part in subject.parts.values() for issue in part.issues]
    for issue in (*issues_of(subject.source), *of_parts):
        if not isinstance(issue, Issue):
            raise CheckFailed(f"its issues include a {type(issue).__name__}: use zoo.Issue")


def check_samples_are_described(subject: SourceSubject) -> None:
    """A sample's labels are a tuple of text, its group is text, and it has a file or `load`."""
    for sample in subject.samples:
        labels = sample.labels
        if not isinstance(labels, tuple) or not all(isinstance(n, str) and n for n in labels):
            raise CheckFailed(
                f"sample {sample.name!r} has labels {labels!r}: make them a tuple of class names, "
                f"such as ('cat',)"
            )
        if sample.group is not None and not isinstance(sample.group, str):
            raise CheckFailed(f"sample {sample.name!r} has group {sample.group!r}: make it text")
        if (sample.file is None) == (sample.load is None):
            raise CheckFailed(
                f"sample {sample.name!r} has {'neither' if sample.file is None else 'both'} `file` "
                f"and `load`: give one of them"
            )


def check_names_are_unique(subject: SourceSubject) -> None:
    """No two samples have the same name, also in different splits."""
    names = Counter(sample.name for sample in subject.samples)
    wrong = next((n for n in names if not isinstance(n, str) or not n), None)
    if wrong is not None:
        raise CheckFailed(f"a sample has the name {wrong!r}: make it text")
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise CheckFailed(
            f"{count(len(twice), 'name')} used more than once, for example {twice[0]!r}: name "
            f"each image by its path or key"
        )


def check_samples_are_the_same_each_time(subject: SourceSubject) -> None:
    """Opened again, also in another process, it gives the same samples in the same order."""
    first = _listed(subject.source)
    again = _listed(cast("Source", subject.opener(subject.data)))
    for found, where in ((again, "again"), (_elsewhere(subject), "in another process")):
        if found is not None and found != first:
            raise CheckFailed(
                f"opened {where} it gives {_difference(first, found)}: take names from the data, "
                f"not from counters, hash() or id(), and sort what comes from a set or a folder"
            )


def check_images_are_read(subject: SourceSubject) -> None:
    """`load` gives the bytes of an encoded image, the same ones each time."""
    for sample in subject.some:
        content = sample.read()
        try:
            image_from_bytes(content, sample.where)
        except DataError as error:
            raise CheckFailed(
                f"{error}: give the bytes of the encoded file (JPEG, PNG ...), not its pixels"
            ) from error
        if sample.read() != content:
            raise CheckFailed(
                f"read twice, {sample.name!r} has other bytes: don't encode it again, and leave an "
                f"open file where it was"
            )


def check_samples_can_be_sent_to_processes(subject: SourceSubject) -> None:
    """A sample can be pickled, as spawned data-loading workers require, and is read the same."""
    for sample in subject.some:
        try:
            other = ForkingPickler.loads(ForkingPickler.dumps(sample))
        except Exception as error:
            raise CheckFailed(
                f"sample {sample.name!r} can't be sent to another process ({explain(error)}): make "
                f"`load` a functools.partial of a module's function and of plain values, and open "
                f"files and connections inside it"
            ) from error
        if other.read() != sample.read():
            raise CheckFailed(f"sent to another process, {sample.name!r} has other bytes")


#: Split, name, labels and group of each sample.
_Listing = list[list[object]]


def _listed(source: Source) -> _Listing:
    return [
        [split, sample.name, list(sample.labels), sample.group]
        for split in source.splits
        for sample in source.read(split).samples
    ]


def _difference(first: _Listing, found: _Listing) -> str:
    if len(found) != len(first):
        return f"{len(found)} samples instead of {len(first)}"
    other, one = next((b, a) for a, b in zip(first, found, strict=True) if a != b)
    return f"{other[1]!r} ({other[0]}, {other[2]}) instead of {one[1]!r} ({one[0]}, {one[2]})"


def _elsewhere(subject: SourceSubject) -> _Listing | None:
    """List the samples in a process with another order of sets; None if it can't be sent there."""
    try:
        sent = bytes(ForkingPickler.dumps((subject.opener, subject.data)))
    except Exception:  # noqa: BLE001 - a lambda or a method of a test, which zoo itself never sends
        return None
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _LIST], input=sent, env=environment, capture_output=True, check=False
    )
    if done.returncode == _NOT_THERE:
        return None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise CheckFailed(f"in another process it raises {last}")
    found: _Listing = json.loads(done.stdout)
    return found
