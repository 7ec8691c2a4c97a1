"""Comparison of backbones before training, and of two runs on the same labelled images."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from zoo import plugins
from zoo.data.decoded import DecodedImages
from zoo.data.sample import Sample
from zoo.data.sources.layout import normal_name
from zoo.data.split import group_indices, names_sha256
from zoo.data.transforms import eval_transform
from zoo.errors import DataError, RecipeError, RunError, WeightsUnavailableError
from zoo.events import Listener, Note
from zoo.features.engine import check_engine
from zoo.io.files import expand, is_file
from zoo.io.text import listed
from zoo.machine.device import choose_device
from zoo.machine.processes import make_accelerator
from zoo.pipeline.finetune import warn
from zoo.planning.candidates import (
    Candidate,
    here,
    images_to_compare,
    measure_candidates,
    ranked,
    recommendation,
)
from zoo.planning.config import Resolver
from zoo.planning.decisions import decide_metric, decide_task
from zoo.planning.inputs import read_data
from zoo.recipe import make_recipe
from zoo.runs.evaluate import Reading, Split, images_of
from zoo.runs.figures import Figures, figures
from zoo.runs.inference import eval_batches, predict_logits
from zoo.runs.read import Run, load
from zoo.runs.write import MODEL
from zoo.tasks.paired import SIGNIFICANT, paired_p, wilson_interval

#: Lists of well-known backbones by name.
PRESETS: Mapping[str, list[str]] = tomllib.loads(
    Path(__file__).with_name("presets.toml").read_text(encoding="utf-8")
)

#: Preset of the backbones whose weights are on this machine.
HERE = "here"

#: Maximum number of images that backbones are compared on, unless another one is given.
MOST_IMAGES = 2_000


class GivenFields(TypedDict, total=False):
    """Fields of a recipe that a comparison takes as they are."""

    device: str
    engine: str
    allow_network: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of comparing backbones.

    Attributes:
        data: Description of the images.
        images: Number of images.
        classes: Number of classes.
        metric: The metric of the figures, with underscores.
        device: Where speed and memory were measured.
        candidates: The backbones, the best first; those that could not be measured last.
        recommendation: Which to take, and whether its lead may be chance.
    """

    data: str
    images: int
    classes: int
    metric: str
    device: str
    candidates: tuple[Candidate, ...]
    recommendation: str

    @property
    def best(self) -> Candidate | None:
        """The best backbone; None if none could be measured."""
        first = self.candidates[0]
        return first if first.reason is None else None


@dataclass(frozen=True, kw_only=True)
class RunScore:
    """Accuracy of one of two compared runs.

    Attributes:
        path: The run folder or file.
        backbone: Full name of its backbone.
        correct: Number of images predicted correctly; multi-label: with exactly the right labels.
        accuracy: Their share, 0..1.
        low: Lower end of its 95 % interval (Wilson, or by bootstrap over groups).
        high: Upper end of its 95 % interval.
    """

    path: Path
    backbone: str
    correct: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An image that two runs predict differently.

    Attributes:
        name: Name of the image in the data.
        labels: Its true labels.
        first: Labels predicted by the first run.
        second: Labels predicted by the second run.
        first_correct: Whether the first run is right.
        second_correct: Whether the second run is right.
    """

    name: str
    labels: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    first_correct: bool
    second_correct: bool


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Result of comparing two runs on the same images.

    Attributes:
        data: Description of the images.
        images: Number of images.
        first: Accuracy of the first run.
        second: Accuracy of the second run.
        only_first: Number of images that only the first run predicts correctly.
        only_second: Number of images that only the second run predicts correctly.
        p: p-value of the exact test of McNemar or, with groups, of `paired_p`.
        verdict: Which run is better, and whether that may be chance.
        warnings: Reasons why the comparison may not be fair.
        differing: The images that they predict differently: first those that only the first run
            predicts correctly, then those that only the second does, then those that neither does.
    """

    data: str
    images: int
    first: RunScore
    second: RunScore
    only_first: int
    only_second: int
    p: float
    verdict: str
    warnings: tuple[str, ...]
    differing: tuple[Difference, ...]


def compare(
    *names: str | Path,
    data: str | Path | None = None,
    presets: Sequence[str] = (),
    image_size: int | None = None,
    max_images: int = MOST_IMAGES,
    group_by: str | None = None,
    split: Split = "val",
    listen: Listener | None = None,
    **fields: Unpack[GivenFields],
) -> Comparison | RunComparison:
    """Compare backbones on labelled images before training, or two runs.

        zoo.compare("efficientnet_lite0", "timm/*resnet18*", data="photos").recommendation
        zoo.compare("runs/first", "runs/second").p

    Names are those of two runs if each is a run folder or a model.safetensors that exists. Else
    they are backbones: their features of the train and val images are computed once, and compared
    by cross-validated probes. Images of test are not used.

    Args:
        *names: Names of backbones, patterns (`timm/*resnet18*`); or two runs.
        data: Labelled folder or table. For runs, by default the data of the first one.
        presets: Also compare these: `here`, all backbones whose weights are on this machine; lists
            of well-known ones, `fast`, `balanced` and `best`.
        image_size: Side of the input in pixels. Default: each backbone's own.
        max_images: Maximum number of images that backbones are compared on, or five of each class.
        group_by: As in the recipe: images of one group are held out together, and count as one in
            intervals and tests. For runs, it is for other `data` than theirs.
        split: For runs: which images, as in `Run.evaluate`; for the data of the first run, val is
            what that run held out.
        listen: Receives `Progress` and `Note` events. By default, warnings are passed to
            `warnings.warn`.
        **fields: `device` and `engine`, `auto` by default, and `allow_network`, as in the recipe.

    Returns:
        A `Comparison` of backbones, or a `RunComparison`.

    Raises:
        ZooError: The data can't be read, there is nothing to compare, or the runs have different
            classes.
    """
    listen = listen or warn
    recipe = make_recipe(None, data=data, image_size=image_size, group_by=group_by, **fields)
    device = recipe.device
    if runs := runs_among(names):
        if len(runs) != 2 or len(names) != 2 or presets:
            raise RunError(
                f"{listed([str(run) for run in runs])}: compare two runs, and nothing else",
                hint="give two run folders, or backbones only",
            )
        where = None if data is None else expand(data)
        return compare_runs(
            load(runs[0], device=device),
            load(runs[1], device=device),
            where,
            split=split,
            group_by=group_by,
            allow_network=recipe.allow_network,
        )
    if data is None:
        raise DataError(
            f"{listed([str(name) for name in names]) or 'nothing'}: not two runs, and backbones "
            f"are compared on labelled images",
            hint="give `data`",
        )
    chosen = _names([str(name) for name in names], presets)
    resolver = Resolver(recipe, listen=listen)
    splits = read_data(recipe, listen)
    decide_task(resolver, splits, listen)
    decide_metric(resolver, splits.counts(splits.train), listen)
    samples = [*splits.train, *splits.val]
    images = images_to_compare(resolver.recipe, splits, samples, max_images)
    if len(images.samples) < len(samples):
        listen(Note(text=f"compared on {len(images.samples)} of {len(samples)} images"))
    accelerator = make_accelerator(choose_device(device), "fp32")
    check_engine(recipe.engine, accelerator.device, accelerator.num_processes)
    measured = measure_candidates(
        chosen, images, resolver.recipe, accelerator=accelerator, listen=listen
    )
    candidates = ranked(list(measured), images)
    return Comparison(
        data=f"{data}, train and val images",
        images=len(images.samples),
        classes=len(images.class_names),
        metric=images.metric,
        device=str(accelerator.device),
        candidates=candidates,
        recommendation=recommendation(candidates),
    )


def runs_among(names: Sequence[str | Path]) -> list[Path]:
    """Return the names that are run folders, or files of runs, that exist."""
    paths = [expand(name) for name in names]
    return [
        path
        for path in paths
        if is_file(path / MODEL) or (path.suffix == ".safetensors" and is_file(path))
    ]


def _names(names: Sequence[str], presets: Sequence[str]) -> list[str]:
    """Return the full names of the backbones, each once.

    Raises:
        UnknownBackboneError, PluginError: A name or pattern matches nothing.
        RecipeError: There is no such preset.
        WeightsUnavailableError: There is no backbone to compare.
    """
    found = [backbone.name for name in names for backbone in plugins.matching(name)]
    for preset in presets:
        if preset not in (HERE, *PRESETS):
            known = ", ".join((HERE, *PRESETS))
            raise RecipeError(f"no preset {preset!r}", hint=f"give one of {known}")
        found += here() if preset == HERE else PRESETS[preset]
    if not found:
        raise WeightsUnavailableError(
            "the weights of no backbone are on this machine"
            if presets
            else "there is nothing to compare",
            hint="give names of backbones, a preset or two runs",
        )
    return list(dict.fromkeys(found))


def compare_runs(
    first: Run,
    second: Run,
    data: Path | None = None,
    *,
    split: Split = "val",
    group_by: str | None = None,
    allow_network: bool = False,
) -> RunComparison:
    """Compare two runs on the same labelled images.

    Raises:
        RunError: The runs have different tasks or classes.
        DataError: As in `Run.evaluate`.
    """
    names, others = (tuple(map(normal_name, run.class_names)) for run in (first, second))
    if first.info.task != second.info.task:
        raise RunError(
            f"{first.path} is {first.info.task} and {second.path} {second.info.task}: "
            f"they can't be compared"
        )
    if set(names) != set(others):
        different = sorted(set(names) ^ set(others))
        raise RunError(
            f"{first.path} and {second.path} have different classes, so they can't be compared: "
            f"only one has {listed(different)}"
        )
    reading = Reading(split=split, group_by=group_by, allow_network=allow_network)
    splits, source = images_of(first.info, data, reading)
    samples = splits.val
    task, classes = first.task, len(names)
    targets = task.targets(splits.indices(samples), classes)
    # The classes of the second run, in the order of the first one's.
    order = torch.tensor([others.index(name) for name in names])
    logits = [_logits(first, samples), _logits(second, samples)[:, order]]
    right = [task.correct(each, targets) for each in logits]
    only_first, only_second = (int((one & ~other).sum()) for one, other in (right, reversed(right)))
    groups = [sample.group for sample in samples]
    p = paired_p(right[0].double(), right[1].double(), groups=torch.tensor(group_indices(samples)))
    scores = [
        _score(run, correct, figures(each, targets, names, task, groups) if any(groups) else None)
        for run, correct, each in zip((first, second), right, logits, strict=True)
    ]
    return RunComparison(
        data=source,
        images=len(samples),
        first=scores[0],
        second=scores[1],
        only_first=only_first,
        only_second=only_second,
        p=p,
        verdict=_verdict(scores, only_first, only_second, p),
        warnings=tuple(_unfair(first, second, samples, data)),
        differing=tuple(
            _differing(samples, first.class_names, [task.decide(each) for each in logits], right)
        ),
    )


def _logits(run: Run, samples: Sequence[Sample]) -> Tensor:
    """Return logits (N, classes), divided by the temperature."""
    preprocess = run.info.preprocess
    images = DecodedImages(samples, eval_transform(preprocess).prepare)
    logits = predict_logits(run.model, eval_batches(images), preprocess)
    return logits / run.info.temperature


def _score(run: Run, right: Tensor, of_groups: Figures | None) -> RunScore:
    correct, images = int(right.sum()), len(right)
    low, high = wilson_interval(correct, images)
    if of_groups is not None:
        accuracy = of_groups.metrics["accuracy"]
        low, high = accuracy.low, accuracy.high
    return RunScore(
        path=run.path,
        backbone=run.info.backbone,
        correct=correct,
        accuracy=correct / images,
        low=low,
        high=high,
    )


def _verdict(scores: Sequence[RunScore], only_first: int, only_second: int, p: float) -> str:
    if only_first == only_second:
        return f"both are as accurate (p = {p:.2g})"
    better = scores[0] if only_first > only_second else scores[1]
    chance = "beyond chance" if p < SIGNIFICANT else "but the difference may be chance"
    return f"{better.path} is more accurate, {chance} (p = {p:.2g})"


def _unfair(first: Run, second: Run, samples: Sequence[Sample], data: Path | None) -> list[str]:
    """Return which of the runs have learnt from some of the images, or may have."""
    evaluated = first.info.recipe.data if data is None else str(data)
    found = []
    for run in (first, second):
        own = run.info.recipe.data
        if own is None or evaluated is None or os.path.realpath(own) != os.path.realpath(evaluated):
            if own is None and evaluated is None and run.info.val_sha256 != names_sha256(samples):
                found.append(f"{run.path} may have been trained on some of these images")
            continue
        if run.info.val_sha256 == names_sha256(samples):
            continue
        try:
            learnt = {
                each.name for each in images_of(run.info, None, Reading(split="train"))[0].val
            }
        except DataError:
            found.append(
                f"{run.path} has other val images and its data has changed: it may have been "
                f"trained on some of these images"
            )
            continue
        if common := sum(each.name in learnt for each in samples):
            found.append(
                f"{run.path} was trained on {common} of these {len(samples)} images, so its "
                f"accuracy is too high"
            )
    return found


def _differing(
    samples: Sequence[Sample],
    class_names: Sequence[str],
    predicted: Sequence[Tensor],
    right: Sequence[Tensor],
) -> list[Difference]:
    def labels(row: Tensor) -> tuple[str, ...]:
        indices = [int(row)] if row.ndim == 0 else row.nonzero().flatten().tolist()
        return tuple(class_names[index] for index in indices)

    found = [
        Difference(
            name=sample.name,
            labels=sample.labels,
            first=labels(one),
            second=labels(other),
            first_correct=bool(by_first),
            second_correct=bool(by_second),
        )
        for sample, one, other, by_first, by_second in zip(samples, *predicted, *right, strict=True)
        if not torch.equal(one, other)
    ]
    # Python's sort is stable: images keep their order within each kind.
    return sorted(found, key=lambda each: (not each.first_correct, not each.second_correct))
