"""Figures of a classifier on labelled images, each with its 95 % confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from torch import Tensor

from zoo.io.text import listed
from zoo.tasks import Task, metric_label
from zoo.tasks.paired import wilson_interval

#: Confidence level of the intervals.
LEVEL = 0.95

#: Bootstrap resamples.
RESAMPLES = 1000

#: Equal-mass bins of the expected calibration error.
BINS = 15

#: Minimum number of resamples of AUROC and mean average precision.
_FEWEST_RESAMPLES = 100

#: Maximum of images x classes x resamples for AUROC and average precision: a few seconds.
_MOST_RANKED = 500_000_000

#: Maximum number of weights (images x resamples) in memory.
_MOST_WEIGHTS = 5_000_000


Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Figure:
    """An estimate and its 95 % confidence interval; 0..1, except for a loss."""

    value: Number
    low: Number
    high: Number


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """Figures of one class; None means that it is not measured.

    Attributes:
        name: The class.
        images: Number of images of the class; without any, nothing is measured.
        precision: None if the class is predicted for no image.
        recall: Fraction of its images for which it is predicted.
        f1: Harmonic mean of precision and recall.
        auroc: Area under the ROC curve of its probability; None if all images are of the class.
    """

    name: str
    images: int
    precision: Figure | None
    recall: Figure | None
    f1: Figure | None
    auroc: Figure | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of a classifier on labelled images; see `figures`.

    Attributes:
        images: Number of images.
        units: Number of groups, or of images if there are no groups: what is resampled.
        main: The task's main metric, a key of `metrics`.
        metrics: Figures by name. Single-label: `accuracy`, `balanced_accuracy`, `f1`, `auroc`,
            `log_loss`, `ece`; multi-label: `map`, `f1`, `accuracy` (exact matches), `auroc`,
            `log_loss`, `ece`. One that can't be measured is left out: `auroc` if no class is
            present on some images and absent from others.
        baseline: The main metric of a model that ignores its input.
        baseline_what: Description of that model.
        classes: Figures by class, in the order of the logits; empty in a run's metadata.
    """

    images: Annotated[int, Field(ge=1)]
    units: Annotated[int, Field(ge=1)]
    main: str
    metrics: Mapping[str, Figure]
    baseline: Figure
    baseline_what: str
    classes: tuple[ClassFigures, ...] = field(default=())

    @property
    def better_than_baseline(self) -> bool:
        """Whether the whole interval of the main metric lies above the baseline's value."""
        return self.metrics[self.main].low > self.baseline.value


def figures(
    logits: Tensor,
    targets: Tensor,
    class_names: Sequence[str],
    task: Task,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Figures:
    """Compute metrics in all and by class, with 95 % confidence intervals.

    Averages over classes (balanced accuracy, macro F1, macro one-vs-rest AUROC, mean average
    precision) are over the classes that have images; F1 also counts classes that are only
    predicted. The expected calibration error has 15 bins of equal numbers of images (Guo et al.
    2017, with the equal-mass bins of Nixon et al. 2019); single-label, it is that of the predicted
    class, multi-label, of all pairs of image and label.

    Intervals, if images are independent:

    - Accuracy, recall and precision: Wilson (1927). F1 of a class: the Wilson interval of
      J = TP / (TP + FP + FN), because F1 = 2J / (1 + J) (Hand et al. 2021).
    - All others: bootstrap over images, 1,000 resamples, expanded percentiles (Hesterberg 2015).
      AUROC and average precision have fewer resamples, at least 100, if images x classes is above
      500,000. Above 5 million, a resample's AUROC (single-label) is a linear function of its
      weights, from the placement values of DeLong et al. (1988). A class that is missing in a
      resample counts with its value in the sample.
    - The calibration error is biased upwards, because noise in a bin has no sign: its lower bound
      is the value less the 97.5 % quantile of the noise in resamples (by the triangle inequality),
      and its upper one is that of the basic bootstrap.
    - A perfect value does not vary in any resample. Its interval is that of a proportion without
      failures, combined over classes as by Zou and Donner (2008).

    If images have groups, whole groups are resampled, for all figures. Then an interval from few
    groups is a rough one, and from a single group it comprises all possible values.

    Args:
        logits: (N, classes) float32, N at least 1; divided by the temperature, if there is one.
        targets: (N, ...) as defined by the task.
        class_names: Names of the classes, in the order of the logits.
        task: The task.
        groups: The group of each image; None, or None for an image, if it is independent.
        seed: Seed of the bootstrap.

    Returns:
        The figures, the same for the same arguments.
    """
    outcomes = _Outcomes(logits, targets, task)
    units = _units(len(targets), groups)
    grouped = units is not None
    if units is None:
        units = np.arange(len(targets))
    number = int(units.max()) + 1
    # Average precision, unlike AUROC, is no linear function of the weights.
    linear = "map" not in outcomes.names and logits.numel() * _FEWEST_RESAMPLES > _MOST_RANKED
    exact = _estimates(outcomes, np.ones((len(targets), 1)), ranked=not linear)
    bootstrap = _bootstrap
    if linear:
        aurocs, influence = _auroc_influence(outcomes)
        exact |= {"by class auroc": aurocs, "auroc": _mean(aurocs, aurocs)}
        bootstrap = partial(_linear_bootstrap, influence)
    drawn = bootstrap(outcomes, exact, units, seed) if number > 1 else {}
    sample = {name: values[..., 0] for name, values in exact.items()}
    intervals = _Intervals(outcomes, sample, drawn, number, grouped)
    by_class = {name: intervals.of_classes(name) for name in ("precision", "recall", "f1", "auroc")}
    classes = tuple(
        ClassFigures(
            name=name,
            images=int(outcomes.support[n]),
            **{
                metric: each[n] if outcomes.support[n] else None
                for metric, each in by_class.items()
            },
        )
        for n, name in enumerate(class_names)
    )
    found = {
        name: figure
        for name in outcomes.names
        if (figure := intervals.overall(name, by_class)) is not None
    }
    baseline = task.baseline([int(count) for count in outcomes.support], len(targets))
    return Figures(
        images=len(targets),
        units=number,
        main=task.main,
        metrics=found,
        baseline=wilson(baseline.value * number, number),
        baseline_what=baseline.what,
        classes=classes,
    )


def doubt(found: Figures, split: str = "") -> str | None:
    """Return why a model may be no better than its baseline, in a sentence; None: it is better."""
    if found.better_than_baseline:
        return None
    main = found.metrics[found.main]
    share, baseline = f"{main.value:.2%}", f"{found.baseline_what} ({found.baseline.value:.2%})"
    start = f"{split} {metric_label(found.main)} {share}".lstrip()
    if main.value <= found.baseline.value:
        return f"{start} is no better than {baseline}"
    return (
        f"{start} (95% interval {interval(main)}) may be no better than {baseline}: too few images "
        f"({found.images:,})"
    )


def unmeasured(class_names: Sequence[str], counts: Sequence[int], split: str = "") -> str | None:
    """Return which classes have no images to be measured on, in a sentence.

    None if all have some, or none has.
    """
    names = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if not names or len(names) == len(class_names):
        return None
    images = f"{split} images".lstrip()
    return f"classes without {images} are not measured: {listed(names)}"


def interval(figure: Figure) -> str:
    """Return the interval of a fraction as percentages, as "88.2-96.1%"."""
    return f"{figure.low * 100:.1f}-{figure.high * 100:.1f}%"


def figure_text(metric: str, figure: Figure | None) -> str:
    """Return a metric with its interval, as "92.15% (88.2-96.1%)"; a loss is no percentage."""
    if figure is None:
        return ""
    if metric == "log_loss":
        return f"{figure.value:.4f} ({figure.low:.4f}-{figure.high:.4f})"
    return f"{figure.value:.2%} ({interval(figure)})"


def wilson(successes: float, trials: float) -> Figure:
    """Return a share with its score interval (Wilson, 1927), at the 95 % level."""
    return Figure(successes / trials, *wilson_interval(successes, trials))


def _units(images: int, groups: Sequence[str | None] | None) -> Array | None:
    """Return the number (N,) of each image's group, counted from 0; None without any group."""
    if groups is None or all(group is None for group in groups):
        return None
    keys = [(n, "") if group is None else (-1, group) for n, group in enumerate(groups)]
    index = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return np.array([index[key] for key in keys])


class _Outcomes:
    """What the metrics of images are sums of.

    Attributes:
        classes: Number of classes.
        truth: (classes, N) bool.
        scores: (classes, N) probabilities.
        names: Names of the task's metrics.
        sums: (3 classes + 2 + bins, N) sparse: right, support and given by class, correct, loss,
            and by bin the sum of probability - outcome.
        pairs: Outcomes of an image in the calibration error.
        confidence: Mean probability that takes part in the calibration error.
        support: (classes,) images of each class.
    """

    def __init__(self, logits: Tensor, targets: Tensor, task: Task) -> None:
        from scipy import sparse

        classes = logits.shape[1]
        logits = logits.double()
        self.classes = classes
        self.names = task.figures
        self.truth = _indicators(targets, classes)
        given = _indicators(task.decide(logits), classes)
        correct = task.correct(logits, targets).numpy()
        self.scores = task.probabilities(logits).T.contiguous().numpy()
        confidence, outcome = (each.numpy() for each in task.answers(logits, targets))
        self.pairs = confidence.shape[1]
        # Losses are sums over the pairs of an image, the metric is their mean.
        exact = targets.double() if targets.is_floating_point() else targets
        self.loss = task.losses(logits, exact).numpy() / self.pairs
        self.confidence = float(confidence.mean())
        self.support = self.truth.sum(axis=1)
        rows = np.repeat(np.arange(len(targets)), self.pairs)
        gaps = sparse.coo_matrix(
            ((confidence - outcome).ravel(), (_bins(confidence.ravel()), rows)),
            shape=(BINS, len(targets)),
        )
        self.sums = sparse.vstack(
            [
                sparse.csr_matrix(self.truth & given, dtype=float),
                sparse.csr_matrix(self.truth, dtype=float),
                sparse.csr_matrix(given, dtype=float),
                sparse.csr_matrix(np.stack([correct, self.loss]), dtype=float),
                gaps,
            ],
            format="csr",
        )

    def counts(self) -> tuple[Array, Array, Array]:
        """Return right, support and given (classes,)."""
        totals = np.asarray(self.sums.sum(axis=1)).ravel()
        right, support, given = totals[: 3 * self.classes].reshape(3, self.classes)
        return right, support, given


def _indicators(targets: Tensor, classes: int) -> Array:
    """Return whether each image is of each class, (classes, N)."""
    if targets.ndim == 2:
        return np.ascontiguousarray(targets.numpy().T > 0.5)
    return np.asarray(np.arange(classes)[:, None] == targets.numpy())


def _bins(confidence: Array) -> Array:
    """Return the equal-mass bin of each value; equal values are in the same bin."""
    ranks = np.searchsorted(np.sort(confidence), confidence)
    return np.asarray(ranks * BINS // len(confidence))


def _estimates(
    outcomes: _Outcomes,
    weights: Array,
    exact: Mapping[str, Array] | None = None,
    *,
    ranked: bool = True,
) -> dict[str, Array]:
    """Return the metrics of weighted images, (B,) or by class (classes, B), NaN if undefined.

    Args:
        outcomes: Of the images.
        weights: (N, B): how often each image is in each resample.
        exact: The metrics of the sample, if these are resamples.
        ranked: Whether to compute AUROC and average precision.
    """
    classes, total = outcomes.classes, weights.sum(axis=0)
    sums = outcomes.sums @ weights
    right, support, given = sums[: 3 * classes].reshape(3, classes, -1)
    correct, loss, gaps = sums[3 * classes], sums[3 * classes + 1], sums[3 * classes + 2 :]
    gaps = gaps / (total * outcomes.pairs)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_class = {
            "by class recall": right / support,
            "by class precision": right / given,
            "by class f1": 2 * right / (support + given),
        }
        if ranked:
            curves = np.stack(
                [
                    _ranked(scores, truth, weights)
                    for scores, truth in zip(outcomes.scores, outcomes.truth, strict=True)
                ]
            )
            by_class |= {"by class auroc": curves[:, 0], "by class precision average": curves[:, 1]}
    found = {
        **by_class,
        "accuracy": correct / total,
        "log_loss": loss / total,
        "gaps": gaps,
        "ece": np.abs(gaps).sum(axis=0),
    }
    if exact is not None:
        found["ece noise"] = np.abs(gaps - exact["gaps"]).sum(axis=0)
    for name, of_class in _AVERAGES.items():
        if of_class in by_class:
            values = by_class[of_class]
            found[name] = _mean(values, values if exact is None else exact[of_class])
    return found


#: Metrics that are averages over classes, and what of.
_AVERAGES = {
    "balanced_accuracy": "by class recall",
    "f1": "by class f1",
    "auroc": "by class auroc",
    "map": "by class precision average",
}


def _mean(values: Array, exact: Array) -> Array:
    """Return the mean (B,) over the classes that have a value in the sample; 0 if none has."""
    defined = ~np.isnan(exact)
    known = np.where(np.isnan(values), exact, values)
    number = np.maximum(1, defined.sum(axis=0))
    return np.asarray(np.where(defined, known, 0).sum(axis=0) / number)


def _ranked(scores: Array, truth: Array, weights: Array) -> Array:
    """Return AUROC and average precision (2, B) of weighted images; NaN if undefined.

    Scores are compared with those of the positive images only: segment 2k + 1 is the k-th of
    their distinct values, segment 2k what lies below it.
    """
    from scipy import sparse

    levels = np.unique(scores[truth])
    segments = np.searchsorted(levels, scores) + np.searchsorted(levels, scores, "right")

    def summed(chosen: Array, rows: Array, number: int) -> Array:
        ones = np.ones(len(chosen))
        matrix = sparse.csr_matrix((ones, (rows, chosen)), shape=(number, len(scores)))
        return np.asarray(matrix @ weights)

    there, absent = np.flatnonzero(truth), np.flatnonzero(~truth)
    positives = summed(there, segments[there] // 2, len(levels))
    negatives = summed(absent, segments[absent], 2 * len(levels) + 1)
    up_to = negatives.cumsum(axis=0)
    below, equal = up_to[0:-1:2], negatives[1::2]
    number = positives.sum(axis=0)
    auroc = (positives * (below + equal / 2)).sum(axis=0) / (number * up_to[-1])
    true = positives[::-1].cumsum(axis=0)[::-1]
    precision = np.nan_to_num(true / (true + up_to[-1] - below))
    return np.stack([auroc, (positives * precision).sum(axis=0) / number])


def _bootstrap(
    outcomes: _Outcomes, exact: Mapping[str, Array], units: Array, seed: int
) -> dict[str, Array]:
    """Return the metrics of all resamples, as `_estimates`."""
    size = len(units) * outcomes.classes
    most_ranked = int(min(RESAMPLES, max(_FEWEST_RESAMPLES, _MOST_RANKED // size)))
    parts: dict[str, list[Array]] = {}
    done = 0
    for weights in _resamples(units, seed):
        ranked = max(0, min(most_ranked - done, weights.shape[1]))
        for part, with_ranks in ((weights[:, :ranked], True), (weights[:, ranked:], False)):
            if part.shape[1]:
                found = _estimates(outcomes, part, exact, ranked=with_ranks)
                for name, values in found.items():
                    parts.setdefault(name, []).append(values)
        done += weights.shape[1]
    return {name: np.concatenate(values, axis=-1) for name, values in parts.items()}


def _linear_bootstrap(
    influence: Array, outcomes: _Outcomes, exact: Mapping[str, Array], units: Array, seed: int
) -> dict[str, Array]:
    """Return the metrics of all resamples, AUROC as a linear function of the weights."""
    parts: dict[str, list[Array]] = {}
    sample = exact["by class auroc"]
    for weights in _resamples(units, seed):
        found = _estimates(outcomes, weights, exact, ranked=False)
        changes = influence @ weights.astype(np.float32)
        found["by class auroc"] = np.clip(sample + changes, 0, 1)
        found["auroc"] = _mean(found["by class auroc"], sample)
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values, axis=-1) for name, values in parts.items()}


def _auroc_influence(outcomes: _Outcomes) -> tuple[Array, Array]:
    """Return the AUROC of each class, and by how much it changes with the weight of each image.

    The placement value of an image is the share of the images of the other kind that are ranked
    rightly against it (DeLong et al. 1988); AUROC is the mean of those of either kind.

    Returns:
        (classes, 1), NaN if undefined, and the derivatives (classes, N) float32.
    """
    aurocs = np.full((outcomes.classes, 1), np.nan)
    influence = np.zeros(outcomes.scores.shape, dtype=np.float32)
    for n, (scores, truth) in enumerate(zip(outcomes.scores, outcomes.truth, strict=True)):
        there = np.flatnonzero(truth)
        absent = len(scores) - len(there)
        if not len(there) or not absent:
            continue
        levels, positives = np.unique(scores[there], return_counts=True)
        # Segment 2k + 1 is the k-th level, segment 2k what lies below it.
        lower = np.searchsorted(levels, scores)
        segments = 2 * lower + (levels[np.minimum(lower, len(levels) - 1)] == scores)
        both = np.zeros(2 * len(levels) + 1)
        both[1::2] = positives
        negatives = np.bincount(segments, minlength=len(both)) - both
        below = negatives.cumsum() - negatives / 2
        above = both[::-1].cumsum()[::-1] - both / 2
        auroc = (below * both).sum() / (len(there) * absent)
        influence[n] = ((above / len(there) - auroc) / absent).astype(np.float32)[segments]
        influence[n, there] = (below[segments[there]] / absent - auroc) / len(there)
        aurocs[n] = auroc
    return aurocs, influence


def _resamples(units: Array, seed: int) -> Iterator[Array]:
    """Yield weights (N, b) of resamples, in which whole units are drawn with replacement."""
    generator = np.random.default_rng(seed)
    number = int(units.max()) + 1
    most = max(1, _MOST_WEIGHTS // len(units))
    for start in range(0, RESAMPLES, most):
        size = min(most, RESAMPLES - start)
        drawn = generator.integers(number, size=(size, number)) + number * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * number).reshape(size, number)
        yield np.ascontiguousarray(counts.T, dtype=float)[units]


class _Intervals:
    """Intervals around exact values, from Wilson's formula or from resamples."""

    def __init__(
        self,
        outcomes: _Outcomes,
        exact: Mapping[str, Array],
        drawn: Mapping[str, Array],
        units: int,
        grouped: bool,
    ) -> None:
        self._outcomes = outcomes
        self._exact = exact
        self._drawn = drawn
        self._units = units
        self._grouped = grouped
        self._counts = outcomes.counts()
        self._tail = 0.0 if units < 2 else _expanded_tail(units)

    def overall(self, name: str, by_class: Mapping[str, Sequence[Figure | None]]) -> Figure | None:
        """Return the figure of a metric; None if it can't be measured."""
        value = float(self._exact[name])
        if name == "auroc" and not any(by_class["auroc"]):
            return None
        if not self._drawn:
            most = float(self._outcomes.loss.max()) if name == "log_loss" else 1.0
            return Figure(value, 0.0, max(most, value))
        if name == "accuracy" and not self._grouped:
            return wilson(round(value * self._units), self._units)
        low, high = np.quantile(self._drawn[name], [self._tail, 1 - self._tail])
        if name == "ece":
            return self._calibration(value, float(low))
        if name == "log_loss" or 0 < value < 1:
            return Figure(value, min(float(low), value), max(float(high), value))
        return self._extreme(name, value, by_class)

    def of_classes(self, name: str) -> list[Figure | None]:
        """Return the figure of each class; None if it is undefined."""
        exact = self._exact[f"by class {name}"]
        return [
            None if math.isnan(value) else self._of_class(name, n, float(value))
            for n, value in enumerate(exact)
        ]

    def _of_class(self, name: str, n: int, value: float) -> Figure:
        right, support, given = (float(each[n]) for each in self._counts)
        if not self._grouped and name != "auroc":
            trials = {"recall": support, "precision": given, "f1": support + given - right}[name]
            figure = wilson(right, trials)
            if name != "f1":
                return figure
            return Figure(*(2 * j / (1 + j) for j in (figure.value, figure.low, figure.high)))
        if not self._drawn:
            return Figure(value, 0.0, 1.0)
        drawn = self._drawn[f"by class {name}"][n]
        if 0 < value < 1:
            low, high = np.nanquantile(drawn, [self._tail, 1 - self._tail])
            return Figure(value, min(float(low), value), max(float(high), value))
        fewest = min(support, self._outcomes.truth.shape[1] - support) or 1
        trials = fewest if name == "auroc" else given if name == "precision" else support or given
        return wilson(value * min(trials, self._units), min(trials, self._units))

    def _calibration(self, value: float, low: float) -> Figure:
        """Return the calibration error; `low` is the lower bound of its resamples."""
        noise = float(np.quantile(self._drawn["ece noise"], 1 - self._tail))
        largest = max(value, 2 * value - low)
        accuracy = float(self._exact["accuracy"])
        if accuracy in (0, 1) and self._outcomes.pairs == 1:
            # No resample has another accuracy, but the true one may differ.
            share = wilson(accuracy * self._units, self._units)
            ends = (share.low, share.high)
            largest = max(largest, *(abs(self._outcomes.confidence - end) for end in ends))
        return Figure(value, max(0.0, value - noise), max(value, min(1.0, largest)))

    def _extreme(
        self, name: str, value: float, by_class: Mapping[str, Sequence[Figure | None]]
    ) -> Figure:
        """Return a metric that is 0 or 1, with the classes' distances to their bounds combined."""
        of_class = {"balanced_accuracy": "recall", "f1": "f1", "auroc": "auroc", "map": "auroc"}
        if name not in of_class:
            return wilson(value * self._units, self._units)
        found = [each for each in by_class[of_class[name]] if each is not None]
        # Twice the variance, because an error counts in two classes; recalls share none.
        shared = 1 if name == "balanced_accuracy" else 2
        reach = math.sqrt(shared * sum((each.high - each.low) ** 2 for each in found)) / len(found)
        reach = min(1.0, reach)
        return Figure(value, value - reach, value) if value else Figure(value, 0.0, reach)


def _expanded_tail(units: int) -> float:
    """Return the quantile of the lower bound, widened for few units (Hesterberg 2015)."""
    from scipy.special import stdtrit

    quantile = float(stdtrit(units - 1, 0.5 + LEVEL / 2))
    return NormalDist().cdf(-quantile * math.sqrt(units / (units - 1)))
