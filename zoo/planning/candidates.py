"""Comparison of backbones before training, by cross-validated probes on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor

from zoo import plugins
from zoo.backbone import Backbone
from zoo.data.image import ValueRange
from zoo.data.sample import Sample
from zoo.data.split import Splits, group_indices
from zoo.errors import (
    BoundaryError,
    DataError,
    OptionError,
    PluginError,
    SizeError,
    TrainingError,
    WeightsError,
)
from zoo.events import Listener, Note
from zoo.features.pretrained import Embedded, Pretrained, features_of, load_pretrained
from zoo.features.probe import out_of_fold
from zoo.features.rows import rows_at_a_time
from zoo.features.transfer import balancing_weights, shown_metric, some_of_each
from zoo.machine.device import place_images
from zoo.machine.processes import decide_on_main, together
from zoo.machine.speed import memory_in_use, peak_during
from zoo.models.fuse import fuse_batch_norms
from zoo.recipe import Recipe
from zoo.tasks import TASKS, Task
from zoo.tasks.paired import SIGNIFICANT, class_balance, paired_p, wilson_interval
from zoo.training.budget import median_seconds
from zoo.weights.place import is_here

#: Images of each class, on average, with which cross-validation is meaningful.
_FEWEST_OF_EACH = 5

#: Samples of a bootstrap.
_BOOTSTRAP = 500

#: Errors of a single backbone, which leave the others to be compared.
_OF_ONE = (
    BoundaryError,
    OptionError,
    PluginError,
    SizeError,
    TrainingError,
    WeightsError,
)


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """The images that backbones are compared on."""

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    targets: Tensor
    groups: Tensor
    task: Task
    metric: str
    value_range: ValueRange | None
    seed: int

    @property
    def weights(self) -> Tensor | None:
        """Weights (N,) of the images in paired tests; None: all are equal."""
        if self.metric != "balanced_accuracy":
            return None
        return class_balance(self.targets, len(self.class_names))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What was measured of a backbone; figures are None if it could not be.

    Attributes:
        name: Full name.
        parameters: Number of parameters; None if not stated.
        license: Licence of the weights; None if not stated.
        reason: Why it was not measured; None if it was.
        score: Metric of the cross-validated probe, 0..1.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        features: Number of features.
        images_per_second: Speed of the forward pass alone on this machine.
        memory: Bytes that the network takes and, in a forward pass, its activations, at most.
        seconds: Time to compute the features, or to read them from the cache.
        p: p-value of the paired test against the best one; None for that one.
        logits: (N, classes) of each image by the probe that has not seen it.
    """

    name: str
    parameters: int | None
    license: str | None
    reason: str | None = None
    score: float | None = None
    low: float | None = None
    high: float | None = None
    features: int | None = None
    images_per_second: float | None = None
    memory: int | None = None
    seconds: float | None = None
    p: float | None = None
    logits: Tensor | None = field(default=None, repr=False, compare=False)


def here() -> list[str]:
    """Return the names of all backbones whose weights are on this machine, each file once."""
    seen: set[str] = set()
    found = []
    for entry in plugins.index().backbones:
        if not is_here(entry.name, entry.weights):
            continue
        sha256 = entry.weights.sha256 if entry.weights else None
        if sha256 is None or sha256 not in seen:
            found.append(entry.name)
        seen.update([sha256] if sha256 else [])
    return found


def images_to_compare(
    recipe: Recipe, splits: Splits, samples: Sequence[Sample], most: int
) -> LabelledImages:
    """Return at most `most` of the samples, or five of each class, with the same share of each.

    Raises:
        DataError: All images are of one group, so that none could be held out.
    """
    task = TASKS[recipe.task]
    classes = len(splits.class_names)
    targets = task.targets(splits.indices(samples), classes)
    most = max(most, _FEWEST_OF_EACH * classes)
    some = some_of_each(task.strata(targets), most, recipe.seed)
    chosen = tuple(samples[n] for n in some)
    groups = torch.tensor(group_indices(chosen))
    if len(set(groups.tolist())) < 2:
        raise DataError("all images are of one group, so none can be held out")
    return LabelledImages(
        samples=chosen,
        class_names=splits.class_names,
        targets=targets[some],
        groups=groups,
        task=task,
        metric=shown_metric(task, recipe.metric),
        value_range=splits.value_range,
        seed=recipe.seed,
    )


def measure_candidates(
    names: Sequence[str],
    images: LabelledImages,
    recipe: Recipe,
    *,
    accelerator: Accelerator,
    listen: Listener,
) -> Iterator[Candidate]:
    """Measure one backbone after the other; one that can't be measured has a reason instead.

    Several processes divide the images, and all get what the main one has measured.

    Raises:
        DataError: An image can't be read, or has changed since it was first read.
    """
    for name in names:
        try:
            backbone = together(partial(plugins.get, name))
        except PluginError as error:
            yield Candidate(name=name, parameters=None, license=None, reason=str(error))
            continue
        weights = backbone.weights
        known = Candidate(
            name=backbone.name,
            parameters=backbone.parameters,
            license=None if weights is None else weights.license,
        )
        try:
            yield _measured(known, backbone, images, recipe, accelerator, listen)
        except _OF_ONE as error:
            yield replace(known, reason=str(error))


def _measured(
    known: Candidate,
    backbone: Backbone,
    images: LabelledImages,
    recipe: Recipe,
    accelerator: Accelerator,
    listen: Listener,
) -> Candidate:
    before = memory_in_use(accelerator.device)
    pretrained = together(
        lambda: load_pretrained(
            backbone, recipe, value_range=images.value_range, accelerator=accelerator, listen=listen
        )
    )
    (embedded,) = features_of(pretrained, images.samples, listen=listen)
    return decide_on_main(
        accelerator, lambda: _scored(known, pretrained, embedded, images, memory=before)
    )


def _scored(
    known: Candidate,
    pretrained: Pretrained,
    embedded: Embedded,
    images: LabelledImages,
    *,
    memory: int | None,
) -> Candidate:
    """Return the candidate with its figures; `memory` was in use before it was loaded."""
    classes = len(images.class_names)
    logits = out_of_fold(
        embedded.features,
        images.targets,
        classes,
        task=images.task,
        groups=images.groups,
        class_weights=balancing_weights(images.task, images.metric, images.targets, classes),
        seed=images.seed,
    )
    rate, peak = _speed(pretrained)
    score, low, high = _interval(logits, images)
    own = sum(parameter.numel() for parameter in pretrained.model.parameters())
    return replace(
        known,
        parameters=known.parameters or own,
        score=score,
        low=low,
        high=high,
        features=embedded.features.shape[1],
        images_per_second=rate,
        memory=None if peak is None or memory is None else max(0, peak - memory),
        seconds=embedded.seconds,
        logits=logits,
    )


@torch.inference_mode()
def _speed(pretrained: Pretrained) -> tuple[float, int | None]:
    """Return the images per second of a forward pass on images of zeros, and the peak memory."""
    device = pretrained.accelerator.device
    size = rows_at_a_time(device)
    zeros = torch.zeros(size, pretrained.preprocess.channels, *pretrained.preprocess.height_width)
    images = place_images(zeros, device)
    model = pretrained.model.eval()
    peak = peak_during(lambda: model(images), device)
    folded = fuse_batch_norms(model, images[:2]).model
    return size / median_seconds(lambda: folded(images), device), peak


def _interval(logits: Tensor, images: LabelledImages) -> tuple[float, float, float]:
    """Return the metric and its 95 % interval: Wilson's, or by bootstrap over groups."""
    measured = logits.isfinite().all(dim=1)
    logits, targets = logits[measured], images.targets[measured]
    task, metric = images.task, images.metric
    value = float(task.measure(logits, targets).values[metric])
    groups = images.groups[measured].tolist()
    if metric == "accuracy" and len(set(groups)) == len(groups):
        low, high = wilson_interval(value * len(targets), len(targets))
        return value, low, high
    members: dict[int, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    pools = list(members.values())
    drawn = torch.Generator().manual_seed(images.seed)
    values = []
    for _ in range(_BOOTSTRAP):
        picks = torch.randint(0, len(pools), (len(pools),), generator=drawn).tolist()
        rows = [position for pick in picks for position in pools[pick]]
        values.append(float(task.measure(logits[rows], targets[rows]).values[metric]))
    ends = torch.tensor(values).quantile(torch.tensor([0.025, 0.975])).tolist()
    return value, min(value, ends[0]), max(value, ends[1])


def ranked(candidates: Sequence[Candidate], images: LabelledImages) -> tuple[Candidate, ...]:
    """Return the candidates, the best first, each with its p-value against that one.

    Of equal ones the faster is first. Those that were not measured are last.
    """
    measured = [each for each in candidates if each.reason is None]
    measured.sort(key=lambda each: (-(each.score or 0.0), -(each.images_per_second or 0.0)))
    found = measured[:1]
    for other in measured[1:]:
        found.append(replace(other, p=_p(measured[0], other, images)))
    return (*found, *(each for each in candidates if each.reason is not None))


def _p(first: Candidate, second: Candidate, images: LabelledImages) -> float:
    if first.logits is None or second.logits is None:
        return math.nan
    both = (first.logits.isfinite() & second.logits.isfinite()).all(dim=1)
    targets, weights = images.targets[both], images.weights
    one, other = (images.task.scores(each[both], targets) for each in (first.logits, second.logits))
    return paired_p(one, other, None if weights is None else weights[both], images.groups[both])


def recommendation(candidates: Sequence[Candidate]) -> str:
    """Describe which of the ranked candidates to take, and whether its lead may be chance."""
    measured = [each for each in candidates if each.reason is None]
    if not measured:
        return "no backbone could be measured"
    best, others = measured[0], measured[1:]
    text = f"{best.name} ({_percent(best)})"
    if not others:
        return f"{text} is the only one that could be measured"
    following = others[0]
    if (following.p or 0.0) < SIGNIFICANT:
        text += f" is better than the next, {following.name} ({_percent(following)}), beyond chance"
    else:
        text += f" is the best, but its lead over {following.name} ({_percent(following)}) may be "
        text += "chance"
    text += f" (p = {following.p:.2g})"
    rate = best.images_per_second or math.inf
    alike = [each for each in others if (each.p or 0.0) >= SIGNIFICANT]
    fastest = max(alike, key=lambda each: each.images_per_second or 0.0, default=best)
    factor = (fastest.images_per_second or 0.0) / rate
    if factor > _FASTER:
        text += f"; {fastest.name} ({_percent(fastest)}) is {factor:.1f} times as fast, and not "
        text += f"worse beyond chance (p = {fastest.p:.2g})"
    return text


#: Ratio of speeds from which a faster backbone is named.
_FASTER = 1.2


def _percent(candidate: Candidate) -> str:
    return f"{candidate.score:.1%}"


def describe_failures(candidates: Sequence[Candidate], listen: Listener) -> None:
    """Report the candidates that were not measured, with the reason."""
    for each in candidates:
        if each.reason is not None:
            reason = each.reason.partition("\n")[0]
            listen(Note(text=f"{each.name} was not measured: {reason}", warning=True))
