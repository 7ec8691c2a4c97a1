"""Reading a source and splitting it into train and val."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from zoo.data.columns import Columns, group_counts, has_groups, label_counts, parted
from zoo.data.issue import STRICT_KINDS, Issue, because, refuse
from zoo.data.sample import Sample
from zoo.data.scan import Mode, Scan, decode_all, is_read, readable_images
from zoo.data.sources import Part, Source, issues_of
from zoo.data.sources.layout import NO_VAL, normal_name
from zoo.errors import DataError
from zoo.io.text import count, listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.data.check.examine import Examined
    from zoo.data.image import ValueRange

Label = TypeVar("Label", int, str)

#: Maximum number of groups that a note names.
_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Labelled images of the train, val and test splits, and unlabelled ones to train on.

    Attributes:
        class_names: Sorted names of the classes in train.
        train: Training images.
        val: Held-out images, for all choices.
        test: Held-out images, for the final figures only.
        issues: Skipped items and notes, without duplicates.
        findings: What the checks of the data found in images and splits, one line each.
        examined: Examination results of the files, to be stored when training starts.
        value_range: Range of train images with more than 8 bits per channel; None without any.
        scan: Which images were read before training.
        unlabelled: Images without labels, which fine-tuning with a teacher learns from; none of
            them is in a split.
    """

    class_names: tuple[str, ...]
    train: Sequence[Sample]
    val: Sequence[Sample]
    test: Sequence[Sample] = ()
    issues: tuple[Issue, ...] = ()
    findings: tuple[str, ...] = ()
    examined: tuple[Examined, ...] = ()
    value_range: ValueRange | None = None
    scan: Mode = "full"
    unlabelled: tuple[Sample, ...] = ()

    def counts(self, split: Sequence[Sample]) -> list[int]:
        """Count images per class, in the order of `class_names`."""
        by_name = class_counts(split)
        return [by_name[name] for name in self.class_names]

    def indices(self, split: Sequence[Sample]) -> list[tuple[int, ...]]:
        """Return the labels of each sample as indices into `class_names`."""
        index = {name: n for n, name in enumerate(self.class_names)}
        if isinstance(split, Columns):
            # Samples of all splits have the label sets of the table, whose names may be of others.
            known = [tuple(index.get(name, -1) for name in names) for names in split.label_sets]
            return [known[code] for code in split.label_codes().tolist()]
        return [tuple(index[name] for name in sample.labels) for sample in split]


def read_splits(
    source: Source,
    *,
    val_split: float,
    seed: int,
    fold: tuple[int, int] | None = None,
    with_test: bool = True,
    strict: bool = False,
    scan: Scan = decode_all,
) -> Splits:
    """Read the classes and the splits of a source.

    Without a val split, `val_split` of each class in train is held out, and with 0, val is empty.
    Every image is scanned once, so that unreadable ones are found before training. An image whose
    format differs from its extension is read by its format, and reported as an issue.

    Args:
        source: Source of the images.
        val_split: Fraction of each class to hold out, below 1.
        seed: Decides which images are held out.
        fold: Number of the fold, from 1, to hold out instead, and the number of folds. The test
            split is not read then.
        with_test: Whether to read the test split, if there is one.
        strict: Raise an error for issues of `STRICT_KINDS`.
        scan: Examines the files.

    Raises:
        DataError: No images, fewer than two classes, a class too small to split, a val or test
            class that train lacks, or (strict) an issue of `STRICT_KINDS`.
    """
    if fold is not None and "val" in source.splits:
        raise DataError(f"{source.name} has val images, so `folds` has none to choose")
    issues = [i for i in issues_of(source) if (val_split and not fold) or i.reason != NO_VAL]
    if "train" not in source.splits:
        raise DataError(f"{source.name} has no images to learn from{because(issues)}")
    part = source.read("train")
    of_val, of_test = (
        source.read(split) if split in source.splits and not fold and wanted else None
        for split, wanted in (("val", True), ("test", with_test))
    )
    issues += [issue for each in (part, of_val, of_test) if each for issue in each.issues]
    samples = _readable(part, scan, issues, strict=strict)
    class_names = tuple(sorted(class_counts(samples)))
    if len(class_names) < 2:
        raise _too_few_classes(part.name, class_names, because(issues))
    train: Sequence[Sample] = samples
    val: Sequence[Sample] = []
    if fold is not None:
        train, val = split_fold(samples, fold, seed)
        lacking = {*class_names} - class_counts(train).keys()
        if lacking or _groups(samples) < fold[1]:
            raise DataError(
                f"{source.name}: too few images, or groups of them, for {fold[1]} folds"
                f"{because(issues)}"
            )
    elif of_val is None and val_split:
        train, val = stratified_split(samples, val_split, seed)
        if not val or len(class_counts(train)) < len(class_names):
            what = "groups of images" if has_groups(samples) else "images"
            raise DataError(
                f"{source.name}: too few {what} to hold out {val_split:g} of each class"
                f"{because(issues)}"
            )
    elif of_val is not None:
        _refuse_unknown(of_val, part, class_names, issues)
        val = _readable(of_val, scan, issues, strict=strict)
        if not val:
            raise DataError(f"no readable images in {of_val.name}{because(issues)}")
    test: Sequence[Sample] = []
    if of_test is not None:
        _refuse_unknown(of_test, part, class_names, issues)
        test = _readable(of_test, scan, issues, strict=strict)
    if _groups(train) < 2:
        raise DataError(f"all train images of {source.name} are in one group{because(issues)}")
    issues += _across(source.name, {"train": train, "val": val, "test": test})
    issues += _unread(source.name, (train, val, test))
    return Splits(
        class_names=class_names,
        train=_kept(train),
        val=_kept(val),
        test=_kept(test),
        issues=tuple(dict.fromkeys(issues)),
    )


def read_labelled(
    source: Source,
    splits: Sequence[str],
    class_names: Sequence[str],
    *,
    strict: bool = False,
    scan: Scan = decode_all,
) -> Splits:
    """Read all images of some splits of a source as val, for the class map of these names.

    Raises:
        DataError: No images, a class that the map lacks, or (strict) an issue of `STRICT_KINDS`.
    """
    parts = [source.read(split) for split in splits]
    # Other issues that precede reading a split matter to training only.
    issues = [issue for issue in issues_of(source) if issue.kind in STRICT_KINDS]
    issues += [issue for part in parts for issue in part.issues]
    # Runs of earlier versions store class names that are not normalised.
    known = {normal_name(name): name for name in class_names}
    samples: list[Sample] = []
    for part in parts:
        unknown = {name for sample in part.samples for name in sample.labels} - known.keys()
        if unknown:
            raise DataError(
                f"{part.name} has classes that the model lacks: "
                f"{_beside(sorted(unknown), class_names)}; the model's are {', '.join(class_names)}"
            )
        samples += _readable(part, scan, issues, strict=strict)
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


def _refuse_unknown(
    part: Part, train: Part, class_names: Sequence[str], issues: Sequence[Issue]
) -> None:
    unknown = class_counts(part.samples).keys() - {*class_names}
    if unknown:
        raise DataError(
            f"{part.name} has classes that {train.name} lacks: "
            f"{_beside(sorted(unknown), class_names)}; train's classes are "
            f"{', '.join(class_names)}{because(issues)}"
        )


def _across(name: str, splits: Mapping[str, Sequence[Sample]]) -> list[Issue]:
    """Return a note for each two splits that have groups in common."""
    groups = {
        split: {group for group in group_counts(samples) if group is not None}
        for split, samples in splits.items()
        if has_groups(samples)
    }
    issues = []
    for (split, of_split), (other, of_other) in combinations(groups.items(), 2):
        if both := sorted(of_split & of_other):
            reason = (
                f"{count(len(both), 'group')} in both {split} and {other}: "
                f"{listed(both, _EXAMPLES)}; figures on {other} may be far too good"
            )
            issues.append(Issue(kind="note", name=name, reason=reason))
    return issues


def _kept(samples: Sequence[Sample]) -> Sequence[Sample]:
    return samples if isinstance(samples, Columns) else tuple(samples)


def class_counts(samples: Sequence[Sample]) -> Counter[str]:
    """Count the samples of each class."""
    counts: Counter[str] = Counter()
    for labels, number in label_counts(samples).items():
        for name in labels:
            counts[name] += number
    return counts


def _unread(name: str, splits: Sequence[Sequence[Sample]]) -> list[Issue]:
    """Return a note on what is not known of images that have not been read; none if all have."""
    unread = sum(
        samples.unread() if isinstance(samples, Columns) else sum(not is_read(s) for s in samples)
        for samples in splits
    )
    if not unread:
        return []
    images = count(sum(map(len, splits)), "image")
    reason = (
        f"{unread:,} of {images} are not read before training (`scan`): it is not known which are "
        f"unreadable, have a wrong extension, are in two splits, look the same, or have more than "
        f"8 bits"
    )
    return [Issue(kind="note", name=name, reason=reason)]


def _readable(part: Part, scan: Scan, issues: list[Issue], *, strict: bool) -> Sequence[Sample]:
    """Return the readable samples of a part and append issues of its samples to `issues`."""
    if strict:
        refuse(issues)  # Fail before decoding all images.
    readable, found = readable_images(part.samples, scan)
    issues += found
    if strict:
        refuse(issues)
    return readable


def stratified_split(
    samples: Sequence[Sample], val_split: float, seed: int
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Split samples into (train, val), holding out `val_split` of each class, at least one image.

    Images are ranked by a hash of seed and name, so that the split does not depend on the file
    order, and little on which other images there are. Groups stay together. A group or an image
    with several labels is stratified by its rarest label.
    """
    if isinstance(samples, Columns):
        return _split_columns(samples, val_split, seed)
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(_group(sample), []).append(sample)
    members = list(groups.values())
    labels = [tuple(sorted({n for s in group for n in s.labels})) for group in members]
    by_stratum: dict[str | None, list[list[Sample]]] = {}
    for group, rarest in zip(members, rarest_labels(labels), strict=True):
        by_stratum.setdefault(rarest, []).append(group)
    held_out: set[str] = set()
    for stratum in by_stratum.values():
        ranked = sorted(stratum, key=lambda g: _hash(f"split/{seed}/{g[0].group or g[0].name}"))
        for n in _held_out([len(group) for group in ranked], val_split):
            held_out.update(sample.name for sample in ranked[n])
    return (
        [s for s in samples if s.name not in held_out],
        [s for s in samples if s.name in held_out],
    )


def _held_out(sizes: Sequence[int], val_split: float) -> list[int]:
    """Return the positions of the groups to hold out, of those of a stratum in random order."""
    wanted = max(1, round(sum(sizes) * val_split)) if len(sizes) > 1 else 0
    taken, chosen = 0, []
    for n, size in enumerate(sizes[:-1]):
        # Half a group over the wanted number is as far off as half a group under it.
        if taken + size / 2 > wanted:
            continue
        taken += size
        chosen.append(n)
        if taken >= wanted:
            break
    if wanted and not chosen:
        chosen.append(min(range(len(sizes)), key=sizes.__getitem__))
    return chosen


def _split_columns(columns: Columns, val_split: float, seed: int) -> tuple[Columns, Columns]:
    """Split as `stratified_split` splits samples, by arrays."""
    names: Iterable[str] = columns.names()
    of_set: NDArray[Any]
    if grouped := has_groups(columns):
        groups = np.array(group_indices(columns), np.int32)
        _, first, sizes = np.unique(groups, return_index=True, return_counts=True)
        names = (sample.group or sample.name for sample in columns.take(first))
        label_sets = _of_groups(columns, groups, len(sizes))
        rarest, of_set = rarest_labels(label_sets), np.arange(len(sizes))
    else:
        sizes = np.ones(len(columns), np.int8)
        counts = class_counts(columns)
        rarest, of_set = _rarest(columns.label_sets, counts), columns.label_codes()
    ranks = np.fromiter(
        (int.from_bytes(_hash(f"split/{seed}/{name}"), "big") for name in names),
        np.uint64,
        len(sizes),
    )
    numbers: dict[str | None, int] = {}
    strata = np.array([numbers.setdefault(name, len(numbers)) for name in rarest], np.int32)[of_set]
    # By stratum, then by rank; groups of the same rank stay in order.
    order = np.lexsort((ranks, strata))
    starts = np.searchsorted(strata[order], np.arange(len(numbers) + 1))
    held_out = np.zeros(len(sizes), bool)
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        ranked = order[start:end]
        held_out[ranked[_held_out(sizes[ranked].tolist(), val_split)]] = True
    mask = held_out[groups] if grouped else held_out
    return columns.take(~mask), columns.take(mask)


def _of_groups(columns: Columns, groups: NDArray[np.int32], number: int) -> list[tuple[str, ...]]:
    """Return the labels of each group of images, sorted."""
    sets = len(columns.label_sets)
    pairs = np.unique(groups.astype(np.int64) * sets + columns.label_codes())
    found: list[set[str]] = [set() for _ in range(number)]
    for pair in pairs.tolist():
        found[pair // sets].update(columns.label_sets[pair % sets])
    return [tuple(sorted(each)) for each in found]


def split_fold(
    samples: Sequence[Sample], fold: tuple[int, int], seed: int
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Split samples into (all other folds, one fold); groups stay together.

    Args:
        samples: The samples.
        fold: Number of the fold, from 1, and the number of folds.
        seed: Decides which samples are in which fold; the folds of a seed have none in common.
    """
    number, folds = fold
    labels: dict[str, list[str]] = {}
    for sample in samples:
        labels.setdefault(_group(sample), []).append(" + ".join(sorted(sample.labels)))
    ranked = sorted(labels, key=lambda key: _hash(f"folds/{seed}/{key}"))
    dealt = dict(zip(ranked, deal_folds([labels[key] for key in ranked], folds), strict=True))
    held_out = (dealt[_group(sample)] == number - 1 for sample in samples)
    return parted(samples, np.fromiter(held_out, bool, len(samples)))


def rarest_labels(labels: Sequence[tuple[Label, ...]]) -> list[Label | None]:
    """Return the label of each image that is rarest overall; None for an image without labels.

    Stratifying by it spreads rare labels over all parts, as the greedy step of iterative
    stratification does (Sechidis et al., 2011).
    """
    return _rarest(labels, Counter(label for each in labels for label in each))


def _rarest(labels: Sequence[tuple[Label, ...]], counts: Counter[Label]) -> list[Label | None]:
    return [min(each, key=lambda label: (counts[label], label), default=None) for each in labels]


def group_indices(samples: Sequence[Sample]) -> Sequence[int]:
    """Return the index of the group of each sample; a sample without a group is one of its own."""
    if isinstance(samples, Columns):
        if not has_groups(samples):
            return range(len(samples))
        codes = samples.group_codes().astype(np.int64)
        alone = np.flatnonzero(codes == 0)
        codes[alone] = -1 - alone
        _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        # Numbered in the order of their first images.
        found: list[int] = np.argsort(np.argsort(first))[inverse].tolist()
        return found
    numbers: dict[str, int] = {}
    return [numbers.setdefault(_group(sample), len(numbers)) for sample in samples]


def _groups(samples: Sequence[Sample]) -> int:
    """Count the groups of samples; a sample without a group is one of its own."""
    counts = group_counts(samples)
    return len(counts) if None not in counts else len(counts) - 1 + counts[None]


def deal_folds(groups: Sequence[Sequence[Label]], folds: int) -> list[int]:
    """Deal groups of images to folds, so that each has about the same number of each label.

    Groups are dealt by their rarest label, the largest first, each to the fold that has the fewest
    images of this label.

    Args:
        groups: Labels of the images of each group, in random order.
        folds: Number of folds.

    Returns:
        The fold of each group, from 0.
    """
    rarest = rarest_labels([tuple(sorted(set(labels))) for labels in groups])
    order = sorted(range(len(groups)), key=lambda n: (rarest[n], -len(groups[n])))
    counts = [Counter[Label | None]() for _ in range(folds)]
    totals = [0] * folds
    dealt = [0] * len(groups)
    for n in order:
        label = rarest[n]
        fold = min(range(folds), key=lambda f: (counts[f][label], totals[f]))
        dealt[n] = fold
        counts[fold].update(groups[n])
        totals[fold] += len(groups[n])
    return dealt


def names_sha256(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of the sample names, independent of their order."""
    names = samples.names() if isinstance(samples, Columns) else (s.name for s in samples)
    joined = "\n".join(sorted(names))
    return hashlib.sha256(os.fsencode(joined)).hexdigest()


def _group(sample: Sample) -> str:
    return f"image {sample.name}" if sample.group is None else f"group {sample.group}"


def _hash(text: str) -> bytes:
    return hashlib.blake2b(os.fsencode(text), digest_size=8).digest()


def _beside(unknown: Sequence[str], class_names: Sequence[str]) -> str:
    """List unknown class names, each with a known name that differs only in case, if any."""
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
