"""The part of a dataset check that needs the features of a pretrained backbone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo import plugins
from zoo.data.check.alignment import small_images
from zoo.data.check.compare import components
from zoo.data.check.dataset import Checked, sorted_findings, with_copies
from zoo.data.check.findings import Finding, of_each
from zoo.data.check.label_table import SEPARATOR
from zoo.data.sample import Sample
from zoo.data.transforms import eval_transform, mirrored_transform
from zoo.data.value_range import common_range
from zoo.events import Listener, ignore
from zoo.features.copies import find_copies
from zoo.features.pretrained import features_of, load_pretrained
from zoo.features.suspects import LEAST, Suspects, find_suspects
from zoo.io.text import count
from zoo.recipe import Recipe
from zoo.tasks import fitting_task


@dataclass(frozen=True, kw_only=True)
class SuspectedLabel:
    """An image whose label is probably wrong.

    Attributes:
        path: Path as in `Photo`.
        split: Split as in `Photo`.
        given: Its label, or its labels separated by `|`.
        suggested: The suggested label, or labels.
        change: `replace` the label or, if images may have several, `add` or `remove` one.
        label: The label that is wrong, or missing.
        probability: Probability of the suggestion, by probes not fitted to this image.
        score: Probability of the given label; the lower, the more suspicious.
    """

    path: str
    split: str
    given: str
    suggested: str
    change: Literal["replace", "add", "remove"]
    label: str
    probability: float
    score: float

    @property
    def advised(self) -> str:
        """What is advised, in a few words."""
        return self.suggested if self.change == "replace" else f"{self.change} {self.label}"


@dataclass(frozen=True, kw_only=True)
class EditedCopy:
    """Two images of which one is an edited copy of the other.

    Attributes:
        path: Path of one as in `Photo`.
        other: Path of the other.
        mirrored: Whether one is mirrored.
        similarity: Cosine similarity of their features.
        correlation: Correlation of their pixels where one shows a part of the other.
    """

    path: str
    other: str
    mirrored: bool
    similarity: float
    correlation: float


@dataclass(frozen=True, kw_only=True)
class FeatureReport:
    """What features say about the labels and copies of a dataset."""

    backbone: str
    weights: str
    images: int
    suspects: tuple[SuspectedLabel, ...]
    copies: tuple[EditedCopy, ...]
    not_judged: tuple[str, ...]
    computed: int
    seconds: float


def check_with_features(
    checked: Checked, recipe: Recipe, *, listen: Listener = ignore
) -> tuple[Checked, FeatureReport]:
    """Find suspected labels, crops and mirrored copies by the features of a backbone.

    Returns:
        The check with further findings, and what they are based on.

    Raises:
        ZooError: As in `load_pretrained` and `features_of`; there are fewer than two classes.
    """
    started = time.perf_counter()
    used = [n for n, photo in enumerate(checked.photos) if photo.used]
    photos = [checked.photos[n] for n in used]
    samples = [
        replace(
            checked.listing.images[n].sample,
            labels=photo.labels,
            content=photo.examined.fingerprint,
        )
        for n, photo in zip(used, photos, strict=True)
    ]
    value_range = common_range(p.examined for p in photos if p.split in ("", "train"))
    backbone = plugins.get(recipe.backbone)
    pretrained = load_pretrained(backbone, recipe, value_range=value_range, listen=listen)
    preprocess = pretrained.preprocess
    plain, mirrored = features_of(
        pretrained,
        samples,
        [eval_transform(preprocess), mirrored_transform(preprocess)],
        listen=listen,
    )
    pairs = [
        copy
        for copy in find_copies(
            plain.features,
            mirrored.features,
            lambda chosen: small_images([samples[n] for n in chosen], value_range),
        )
        if photos[copy.one].examined.content != photos[copy.other].examined.content
    ]
    copied = with_copies(checked, [(used[copy.one], used[copy.other]) for copy in pairs])
    names = sorted({name for sample in samples for name in sample.labels})
    groups = _groups(copied, samples, used)
    splits = [photo.split for photo in photos]
    suspects, not_judged = _suspects(plain.features, samples, splits, names, groups)
    report = FeatureReport(
        backbone=backbone.name,
        weights=pretrained.source,
        images=len(samples),
        suspects=tuple(suspects),
        copies=tuple(
            EditedCopy(
                path=photos[copy.one].path,
                other=photos[copy.other].path,
                mirrored=copy.mirrored,
                similarity=copy.similarity,
                correlation=copy.correlation,
            )
            for copy in pairs
        ),
        not_judged=not_judged,
        computed=plain.computed + mirrored.computed,
        seconds=time.perf_counter() - started,
    )
    findings = sorted_findings([*copied.report.findings, *_findings(report)])
    return replace(copied, report=replace(copied.report, findings=findings)), report


def _suspects(
    features: Tensor, samples: list[Sample], splits: list[str], names: list[str], groups: Tensor
) -> tuple[list[SuspectedLabel], tuple[str, ...]]:
    """Return suspects, and the names of classes that are not judged."""
    if len(names) < 2:
        return [], tuple(names)
    task = fitting_task([len(sample.labels) for sample in samples])
    index = {name: n for n, name in enumerate(names)}
    targets = task.targets([tuple(index[x] for x in s.labels) for s in samples], len(names))
    found: Suspects = find_suspects(features, targets, len(names), task=task, groups=groups)
    listed = []
    for each in found.ranked:
        labels = samples[each.position].labels
        name = names[each.label]
        change: Literal["replace", "add", "remove"] = "replace"
        if task.exclusive:
            suggested = names[each.suggested]
        elif each.suggested:
            change, suggested = "add", SEPARATOR.join([*labels, name])
        else:
            change = "remove"
            suggested = SEPARATOR.join(label for label in labels if label != name)
        suspect = SuspectedLabel(
            path=samples[each.position].name,
            split=splits[each.position],
            given=SEPARATOR.join(labels),
            suggested=suggested,
            change=change,
            label=name,
            probability=each.probability,
            score=each.score,
        )
        listed.append(suspect)
    return listed, tuple(names[n] for n in found.not_judged)


def _groups(checked: Checked, samples: list[Sample], used: list[int]) -> Tensor:
    """Return the group (N,) of each image: those of one group, and copies, are in one fold."""
    row_of = {checked.photos[n].path: row for row, n in enumerate(used)}
    alike = (
        kind
        for found in checked.comparisons
        for kind in (
            *(found.conflicts, found.leaks, found.duplicates),
            *(found.near_leaks, found.near_conflicts, found.near_duplicates),
        )
    )
    edges = [
        (row_of[group[0].path], row_of[photo.path])
        for kind in alike
        for group in kind
        for photo in group[1:]
    ]
    first: dict[str, int] = {}
    for row, sample in enumerate(samples):
        if sample.group is not None:
            edges.append((first.setdefault(sample.group, row), row))
    return torch.from_numpy(components(len(samples), edges).astype(np.int64))


def _findings(report: FeatureReport) -> Iterable[Finding]:
    paths = list(dict.fromkeys(suspect.path for suspect in report.suspects))
    if paths:
        pairs = Counter(
            f"{s.given} instead of {s.suggested}"
            if s.change == "replace"
            else f"{s.label} is {'missing' if s.change == 'add' else 'given'}"
            for s in report.suspects
        )
        ((most, number),) = pairs.most_common(1)
        yield of_each(
            "suspected-labels",
            "warning",
            f"{count(len(report.suspects), 'label')} probably wrong, most often {most} ({number})",
            paths,
            "look at them: `html` shows them, `labels_to` writes a table to accept or change, "
            "`labels_from` applies it",
        )
    if report.not_judged:
        yield of_each(
            "labels-not-judged",
            "note",
            f"classes whose labels are not judged, with fewer than {LEAST} images: "
            f"{len(report.not_judged)}",
            report.not_judged,
            "look at these images yourself",
        )
