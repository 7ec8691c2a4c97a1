"""Labelled images, split into train and val."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from zoo.data.issue import STRICT_KINDS, Issue, because, refuse
from zoo.data.sample import Sample
from zoo.data.scan import Scan, decode_all, readable_images
from zoo.data.sources import Part, Source, issues_of
from zoo.data.sources.layout import normal_name
from zoo.errors import DataError

if TYPE_CHECKING:
    from zoo.data.check.examine import Examined
    from zoo.data.image import ValueRange

Label = TypeVar("Label", int, str)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Labelled images, split.

    Attributes:
        class_names: Sorted; made from train alone.
        train: Images to learn from.
        val: Held-out images.
        issues: What was left out or is to be known, each once.
        examined: What was found in their files, to be remembered when training starts.
        value_range: Of train's images with more than 8 bits a channel; None without any.
    """

    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    issues: tuple[Issue, ...] = ()
    examined: tuple[Examined, ...] = ()
    value_range: ValueRange | None = None

    def counts(self, split: Sequence[Sample]) -> list[int]:
        """Images per class, in the order of `class_names`."""
        by_name = Counter(name for sample in split for name in sample.labels)
        return [by_name[name] for name in self.class_names]

    def indices(self, split: Sequence[Sample]) -> list[tuple[int, ...]]:
        """The labels of each sample, as indices into `class_names`."""
        index = {name: n for n, name in enumerate(self.class_names)}
        return [tuple(index[name] for name in sample.labels) for sample in split]


def read_splits(
    source: Source,
    *,
    val_split: float,
    seed: int,
    strict: bool = False,
    scan: Scan = decode_all,
) -> Splits:
    """Classes and splits of a source.

    Without a val split each class gives `val_split` of its images to val; a test split is not used.
    Every image is scanned once here, so that an unreadable one is known before training. An image
    of another format than its extension says is read as what it is, and named.

    Args:
        source: Of the images.
        val_split: Share of each class held out, above 0 and below 1.
        seed: Decides which images are held out.
        strict: Make issues of `STRICT_KINDS` an error.
        scan: Looks at the files.

    Raises:
        DataError: No images, fewer than two classes, a class too small to split, a val class that
            train lacks, or (strict) such an issue.
    """
    issues = [*issues_of(source)]
    if "test" in source.splits:
        reason = "the test split is not used by training: evaluate with `split=test`"
        issues.append(Issue(kind="note", reason=reason))
    if "train" not in source.splits:
        raise DataError(f"{source.name} has no images to learn from{because(issues)}")
    part = source.read("train")
    of_val = source.read("val") if "val" in source.splits else None
    issues += [*part.issues, *(of_val.issues if of_val else ())]
    samples = _readable(part, scan, issues, strict=strict)
    class_names = tuple(sorted({name for sample in samples for name in sample.labels}))
    if len(class_names) < 2:
        raise _too_few_classes(part.name, class_names, because(issues))
    if of_val is None:
        train, val = stratified_split(samples, val_split, seed)
        learnt = {name for sample in train for name in sample.labels}
        if not val or len(learnt) < len(class_names):
            raise DataError(
                f"{source.name}: too few images to hold out {val_split:g} of each class"
                f"{because(issues)}"
            )
    else:
        unknown = {name for sample in of_val.samples for name in sample.labels} - {*class_names}
        if unknown:
            raise DataError(
                f"{of_val.name} has classes that {part.name} lacks: "
                f"{_beside(sorted(unknown), class_names)}; train's classes are "
                f"{', '.join(class_names)}{because(issues)}"
            )
        train, val = samples, _readable(of_val, scan, issues, strict=strict)
        if not val:
            raise DataError(f"no readable images in {of_val.name}{because(issues)}")
    return Splits(
        class_names=class_names,
        train=tuple(train),
        val=tuple(val),
        issues=tuple(dict.fromkeys(issues)),
    )


def read_labelled(
    source: Source,
    splits: Sequence[str],
    class_names: Sequence[str],
    *,
    strict: bool = False,
) -> Splits:
    """All images of some splits of a source as val, with the labels of an existing class map.

    Args:
        source: Of the images.
        splits: Of those that it has.
        class_names: Of the class map, in the order of its labels.
        strict: As `read_splits`.

    Raises:
        DataError: No images, a class that the map lacks, or (strict) such an issue.
    """
    parts = [source.read(split) for split in splits]
    # Of what else is left out before a split is read only training need know.
    issues = [issue for issue in issues_of(source) if issue.kind in STRICT_KINDS]
    issues += [issue for part in parts for issue in part.issues]
    # Runs of earlier versions have class names as their folders had them.
    known = {normal_name(name): name for name in class_names}
    samples: list[Sample] = []
    for part in parts:
        unknown = {name for sample in part.samples for name in sample.labels} - known.keys()
        if unknown:
            raise DataError(
                f"{part.name} has classes that the model lacks: "
                f"{_beside(sorted(unknown), class_names)}; the model's are {', '.join(class_names)}"
            )
        samples += _readable(part, decode_all, issues, strict=strict)
    if not samples:
        names = ", ".join(part.name for part in parts)
        raise DataError(f"no readable images in {names}{because(issues)}")
    renamed = [
        replace(sample, labels=tuple(known[name] for name in sample.labels)) for sample in samples
    ]
    return Splits(
        class_names=tuple(class_names),
        train=(),
        val=tuple(renamed),
        issues=tuple(dict.fromkeys(issues)),
    )


def _readable(part: Part, scan: Scan, issues: list[Issue], *, strict: bool) -> list[Sample]:
    """The readable samples of a part; what is wrong with others is added to `issues`."""
    if strict:
        refuse(issues)  # Before all images are decoded.
    readable, found = readable_images(part.samples, scan)
    issues += found
    if strict:
        refuse(issues)
    return readable


def stratified_split(
    samples: Sequence[Sample], val_split: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(train, val): of each class the share `val_split`, at least one image, goes to val.

    Images are ranked by a hash of seed and name, so that whether one is held out depends neither on
    the order of the files nor much on which others there are. Those of a group stay together, and a
    group counts, as an image of several classes does, for the rarest of its labels.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        key = f"image {sample.name}" if sample.group is None else f"group {sample.group}"
        groups.setdefault(key, []).append(sample)
    members = list(groups.values())
    labels = [tuple(sorted({n for s in group for n in s.labels})) for group in members]
    by_stratum: dict[str | None, list[list[Sample]]] = {}
    for group, rarest in zip(members, rarest_labels(labels), strict=True):
        by_stratum.setdefault(rarest, []).append(group)
    held_out: set[str] = set()
    for stratum in by_stratum.values():
        ranked = sorted(stratum, key=lambda g: _hash(f"split/{seed}/{g[0].group or g[0].name}"))
        images = sum(map(len, ranked))
        wanted = max(1, round(images * val_split)) if len(ranked) > 1 else 0
        count = 0
        for group in ranked[:-1]:
            # Half a group too many is as far from what is wanted as half a group too few.
            if count + len(group) / 2 > wanted:
                continue
            count += len(group)
            held_out.update(sample.name for sample in group)
            if count >= wanted:
                break
        if wanted and not count:
            held_out.update(sample.name for sample in min(ranked, key=len))
    return (
        [s for s in samples if s.name not in held_out],
        [s for s in samples if s.name in held_out],
    )


def rarest_labels(labels: Sequence[tuple[Label, ...]]) -> list[Label | None]:
    """Of each image's labels the one that the fewest images have; None for one without labels.

    Spreading images by it keeps rare labels in all parts, as the greedy step of iterative
    stratification does (Sechidis et al., 2011).
    """
    counts = Counter(label for each in labels for label in each)
    return [min(each, key=lambda label: (counts[label], label), default=None) for each in labels]


def names_sha256(samples: Sequence[Sample]) -> str:
    """SHA-256 over the names of samples, whatever their order."""
    joined = "\n".join(sorted(sample.name for sample in samples))
    return hashlib.sha256(os.fsencode(joined)).hexdigest()


def _hash(text: str) -> bytes:
    return hashlib.blake2b(os.fsencode(text), digest_size=8).digest()


def _beside(unknown: Sequence[str], class_names: Sequence[str]) -> str:
    """Class names that are not known, each beside a known one that it may stand for."""
    folded = {name.casefold(): name for name in class_names}
    named = [(name, folded.get(name.casefold())) for name in unknown]
    return ", ".join(f"{name} (there is {near})" if near else name for name, near in named)


def _too_few_classes(where: str, class_names: Sequence[str], because: str) -> DataError:
    if not class_names:
        return DataError(f"no readable images in {where}{because}")
    return DataError(
        f"{where} has one class only ({class_names[0]}); a classifier needs at least two: "
        f"one subfolder per class{because}"
    )
