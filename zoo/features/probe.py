"""Linear probe on the features of a frozen backbone, regularised by cross-validation.

It is a multinomial logistic regression, or for multi-label tasks one logistic regression per label.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.data.dataset import derive_seed
from zoo.data.split import deal_folds
from zoo.errors import TrainingError
from zoo.tasks import SINGLE_LABEL, Task

#: Penalties that are tried, the strongest first; half a decade apart.
PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(1, -9, -1))

#: The weakest penalty that is tried, times the number of images. A few images are easily separated,
#: so that cross-validation alone would choose ever weaker penalties and overconfident probes.
_WEAKEST = 1.0

#: Number of folds of cross-validation.
FOLDS = 5

#: Rows x features x classes above which only one fold is held out.
_MOST_WORK = 2e8

#: Most logits that are computed at a time: 256 MB.
_MOST_LOGITS = 2**26

#: Most logits that are kept, of held-out or other rows: 1 GB.
MOST_KEPT = 2**28

#: Rows x features x classes x folds up to which a single thread is used.
_WORK_FOR_ONE_THREAD = 1e8

#: Limit of the numbers in the history of L-BFGS, which has 10 to 100 steps.
_HISTORY_NUMBERS = 2**26

#: The search ends after this many penalties in a row without a lower loss.
_PATIENCE = 2


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Fitted probe; `features @ weight.T + bias` are its logits.

    Attributes:
        weight: (classes, features) float32, for features as computed by the backbone.
        bias: (classes,) float32.
        penalty: The chosen penalty of the squared weights (for standardised features).
        loss: Mean negative log-likelihood per image in cross-validation, in nats.
        accuracy: Share of images predicted correctly in cross-validation, 0..1.
        held_out: (M, classes) float32 on the CPU: logits of rows by the probe of a fold that has
            not seen their group.
        held_out_rows: (M,) int64 on the CPU, which rows these are: all, or those of a single fold.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    loss: float
    accuracy: float
    held_out: Tensor
    held_out_rows: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits (N, classes) from features (N, C), float32."""
        return torch.nn.functional.linear(features, self.weight, self.bias)

    def to(self, device: torch.device | str) -> Probe:
        """Return it with its weights on that device."""
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which image and which group each row of features is from.

    Attributes:
        images: (N,) int64, index of the image; an image has several rows if it has several views.
        groups: (N,) int64, index of the group; all images of a group are in the same fold.
    """

    images: Tensor
    groups: Tensor


def fit_probe(
    features: Tensor,
    targets: Tensor,
    num_classes: int,
    *,
    task: Task = SINGLE_LABEL,
    origin: Origin | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    seed: int = 0,
) -> Probe:
    """Fit a probe by L-BFGS (Liu and Nocedal, 1989), with a penalty chosen by cross-validation.

    Logits are computed for parts of the rows, and gradients summed, if there are too many for the
    memory. Besides the features, rows of the same size (N, C) are kept, at most 1 GB of held-out
    logits, and about 25 times the weights (classes, C); docs/scaling.md has the figures.

    Features are standardised (nearly constant ones by the median deviation), and the weights are
    converted back. The objective is the task's mean negative log-likelihood plus half the penalty
    times the squared weights; the bias is not penalised. The penalty is at least 1 / images.

    Args:
        features: (N, C) float32, on the device used for fitting.
        targets: (N, ...) as defined by the task.
        num_classes: Number of outputs.
        task: Defines the loss.
        origin: Image and group of each row. Default: each row is a separate image.
        class_weights: (classes,), or None.
        label_smoothing: Share of the target that is spread evenly.
        seed: Determines how groups are assigned to folds.

    Raises:
        TrainingError: A feature is not finite.
    """
    _check_finite(features)
    targets = targets.to(features.device)
    space = _space_of(features)
    rows = space.rows(features)
    weights = None if class_weights is None else class_weights.to(rows)
    problem = _Problem(rows, targets, num_classes, task, weights, label_smoothing)
    held_out = _held_out(
        range(len(rows)) if origin is None else origin.groups.tolist(),
        task.strata(targets),
        rows.shape[1],
        num_classes,
        seed,
    )
    everything = torch.ones(len(rows), 1, dtype=torch.bool, device=rows.device)
    with _threads_for(rows.numel() * num_classes * held_out.shape[1]):
        count = len(rows) if origin is None else len(set(origin.images.tolist()))
        chosen = _choose_penalty(problem, held_out.to(rows.device), count)
        fitted = problem.minimise(everything, chosen.penalty, most_iterations=300)[0]
        positions, unseen = problem.by_own_fold(chosen.weights, held_out.to(rows.device))
    weight = fitted[:, :-1] if space.basis is None else fitted[:, :-1] @ space.basis.T
    weight = weight / space.scale
    return Probe(
        weight=weight,
        bias=fitted[:, -1] - weight @ space.mean,
        penalty=chosen.penalty,
        loss=chosen.loss,
        accuracy=chosen.accuracy,
        held_out=unseen,
        held_out_rows=positions,
    )


def out_of_fold(
    features: Tensor,
    targets: Tensor,
    num_classes: int,
    *,
    task: Task = SINGLE_LABEL,
    groups: Tensor | None = None,
    class_weights: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Compute the logits of each image by the probe of `fit_probe`'s folds that has not seen it.

    For the same targets, groups and seed the folds are the same, so that results with different
    features can be compared image by image. The penalty is that with the lowest held-out loss.

    Args:
        features: (N, C) float32, one row for each image.
        targets: (N, ...) as defined by the task.
        num_classes: Number of outputs.
        task: Defines the loss.
        groups: (N,) int64; images of a group are in the same fold. Default: no groups.
        class_weights: (classes,), or None.
        seed: Determines how images are assigned to folds.

    Returns:
        (N, classes) float32 on the CPU. If the work is so large that only one fold is held out, NaN
        for the other images.

    Raises:
        TrainingError: A feature is not finite.
    """
    _check_finite(features)
    targets = targets.to(features.device)
    space = _space_of(features)
    rows = space.rows(features)
    weights = None if class_weights is None else class_weights.to(rows)
    problem = _Problem(rows, targets, num_classes, task, weights, 0.0)
    images = range(len(rows)) if groups is None else groups.tolist()
    held_out = _held_out(images, task.strata(targets), rows.shape[1], num_classes, seed)
    held_out = held_out.to(rows.device)
    with _threads_for(rows.numel() * num_classes * held_out.shape[1]):
        chosen = _choose_penalty(problem, held_out, len(rows))
    return _spread(len(rows), *problem.by_own_fold(chosen.weights, held_out))


def held_out_logits(
    learnt: Sequence[Tensor],
    targets: Tensor,
    num_classes: int,
    penalty: float,
    asked: Sequence[Tensor],
    task: Task,
    groups: Sequence[int] | None = None,
) -> list[Tensor]:
    """Compute logits of held-out images by cross-validation.

    Args:
        learnt: Rows (N, C) float32 to fit to: one per image in each, in the same order.
        targets: (N, ...) as defined by the task.
        num_classes: Number of outputs.
        penalty: Penalty of the probes.
        asked: Rows (N, C) of the same images to compute logits for.
        task: Defines the loss.
        groups: Index of the group of each image. Default: each image is a group of its own.

    Returns:
        (N, classes) on the CPU for each of `asked`; if only one fold is held out, NaN for all other
        images.
    """
    every = torch.cat(list(learnt))
    space = _space_of(every, like=learnt[0])
    rows = space.rows(every)
    targets = targets.to(rows.device)
    held_out = _held_out(
        range(len(targets)) if groups is None else groups,
        task.strata(targets),
        rows.shape[1],
        num_classes,
        seed=0,
    ).to(rows.device)
    chosen = ~held_out.repeat(len(learnt), 1)
    with _threads_for(rows.numel() * num_classes * held_out.shape[1]):
        problem = _Problem(rows, torch.cat([targets] * len(learnt)), num_classes, task, None, 0.0)
        weights = problem.minimise(chosen, penalty, most_iterations=50)
    found = []
    for given in asked:
        of_given = replace(problem, rows=space.rows(given))
        found.append(_spread(len(given), *of_given.by_own_fold(weights, held_out)))
    return found


def _spread(count: int, positions: Tensor, logits: Tensor) -> Tensor:
    """Return logits (N, classes) of which those at positions are given; NaN for the others."""
    if len(positions) == count:
        return logits
    spread = logits.new_full((count, logits.shape[1]), math.nan)
    spread[positions] = logits
    return spread


def _check_finite(features: Tensor) -> None:
    if not bool(torch.isfinite(features).all()):
        raise TrainingError(
            "the backbone's features of some image are not finite; its weights may be damaged, "
            "or `precision` too low"
        )


def logits_of_parts(
    learnt: tuple[Tensor, Tensor],
    chosen: Tensor,
    penalty: float,
    asked: Tensor,
    num_classes: int,
    task: Task,
) -> Tensor:
    """Compute the logits of images by probes that are fitted to parts of others.

    Args:
        learnt: Features (N, C) float32 and targets (N, ...).
        chosen: (N, probes) bool, the rows that each probe is fitted to.
        penalty: Penalty of the probes.
        asked: Features (M, C) of the images to compute logits for.
        num_classes: Number of outputs.
        task: Defines the loss.

    Returns:
        (M, probes, classes) on the CPU.
    """
    features, targets = learnt
    space = _space_of(features)
    rows = space.rows(features)
    problem = _Problem(rows, targets.to(rows.device), num_classes, task, None, 0.0)
    with _threads_for(rows.numel() * num_classes * chosen.shape[1]):
        weights = problem.minimise(chosen.to(rows.device), penalty, most_iterations=50)
    return replace(problem, rows=space.rows(asked)).logits(weights).cpu()


@dataclass(frozen=True)
class _Space:
    """Where probes are fitted: standardised features, in an orthonormal basis if this is smaller.

    Attributes:
        mean: (C,), subtracted from features.
        scale: (C,), by which they are then divided.
        basis: (C, N), see `_basis`; None, not used, if N >= C.
    """

    mean: Tensor
    scale: Tensor
    basis: Tensor | None

    def rows(self, features: Tensor) -> Tensor:
        """Return features (M, C) as rows of this space."""
        rows = (features - self.mean).div_(self.scale)
        return rows if self.basis is None else rows @ self.basis


def _space_of(features: Tensor, like: Tensor | None = None) -> _Space:
    """Return the space of features (N, C), standardised as `like`; default: as themselves."""
    mean, scale = _standardisation(features if like is None else like)
    if len(features) >= features.shape[1]:
        return _Space(mean, scale, None)
    return _Space(mean, scale, _basis((features - mean) / scale))


def _standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean, scale) (C,) of features (N, C).

    The scale is the standard deviation, but at least the median one. On images unlike those of
    pretraining some features are nearly constant. Divided by their own deviation, they would get
    weights of any size, and gradients of that size would destroy the backbone in fine-tuning.
    """
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    varies = std > 1e-6 * (mean.abs() + 1)
    if not bool(varies.any()):
        return mean, torch.ones_like(std)
    return mean, std.clamp_min(float(std[varies].median()))


def _basis(rows: Tensor) -> Tensor:
    """Return an orthonormal basis (C, N) of the span of rows (N, C).

    The optimal weights are a linear combination of rows, and their norm is the same in any such
    basis. With fewer rows than features, the same probe is thus found in fewer dimensions.
    """
    basis: Tensor = torch.linalg.qr(rows.T).Q
    return basis


@dataclass(frozen=True)
class _Problem:
    """Rows and targets to which several probes are fitted at once, each to a subset of rows."""

    rows: Tensor
    targets: Tensor
    num_classes: int
    task: Task
    class_weights: Tensor | None
    label_smoothing: float

    def zeros(self, probes: int) -> Tensor:
        """Return weights (probes, classes, features + 1) of zero."""
        return self.rows.new_zeros(probes, self.num_classes, self.rows.shape[1] + 1)

    def parts(self, probes: int) -> list[_Problem]:
        """Return parts of the rows so small that the logits of each fit into the memory."""
        size = max(1, _MOST_LOGITS // (probes * self.num_classes))
        starts = range(0, len(self.rows), size)
        if len(starts) <= 1:
            return [self]
        return [
            replace(self, rows=self.rows[n : n + size], targets=self.targets[n : n + size])
            for n in starts
        ]

    def logits(self, weights: Tensor) -> Tensor:
        """Compute logits (N, probes, classes); the last column of the weights is the bias."""
        flat = weights.flatten(0, 1)
        logits = torch.addmm(flat[:, -1], self.rows, flat[:, :-1].T)
        return logits.view(len(logits), *weights.shape[:2])

    def by_own_fold(self, weights: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits of held-out rows by the probe that has not seen them.

        Args:
            weights: (probes, classes, features + 1).
            held_out: (N, probes) bool, at most one probe a row.

        Returns:
            Which rows these are (M,), and their logits (M, classes), on the CPU.
        """
        some = held_out.any(dim=1).nonzero().flatten()
        rest = replace(self, rows=self.rows[some], targets=self.targets[some])
        others = ~held_out[some][:, :, None]
        found = torch.empty(len(some), self.num_classes)
        start = 0
        for part in rest.parts(held_out.shape[1]):
            end = start + len(part.rows)
            found[start:end] = part.logits(weights).masked_fill_(others[start:end], 0).sum(dim=1)
            start = end
        return some.cpu(), found

    def counts(self, chosen: Tensor) -> Tensor:
        """Return the sum (probes,) of the weights of the chosen rows (N, probes)."""
        counts = chosen.to(self.rows)
        if self.class_weights is not None:
            counts = counts * self.task.weights(self.targets, self.class_weights)[:, None]
        return counts.sum(dim=0)

    def losses(self, weights: Tensor, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Compute the mean loss of each probe over its chosen rows, by parts of the rows.

        Args:
            weights: (probes, classes, features + 1).
            chosen: (N, probes) bool.

        Yields:
            Of each part of the rows, its contribution to the mean (probes,), and its logits
            (N of the part, probes, classes).
        """
        probes, counts = chosen.shape[1], self.counts(chosen)
        for part in self.parts(probes):
            some, chosen = chosen[: len(part.rows)], chosen[len(part.rows) :]
            logits = part.logits(weights)
            each = self.task.losses(
                logits.flatten(0, 1),
                part.targets.repeat_interleave(probes, dim=0),
                self.class_weights,
                self.label_smoothing,
            ).view_as(some)
            yield (each * some).sum(dim=0) / counts, logits

    def minimise(
        self,
        chosen: Tensor,
        penalty: float,
        start: Tensor | None = None,
        *,
        most_iterations: int,
    ) -> Tensor:
        """Fit weights (probes, classes, features + 1) of least loss and penalty on chosen rows.

        The probes are independent, so the minimum of the sum is the minimum of each; together they
        read the rows once.
        """
        if start is None:
            start = self.zeros(chosen.shape[1])
        weights = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weights],
            max_iter=most_iterations,
            tolerance_grad=1e-5,
            history_size=min(100, max(10, _HISTORY_NUMBERS // weights.numel())),
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            penalised = penalty / 2 * weights[:, :, :-1].square().sum()
            total = torch.zeros_like(penalised, requires_grad=False)
            for losses, _ in self.losses(weights, chosen):
                objective = losses.sum() + penalised
                objective.backward()  # type: ignore[no-untyped-call]
                total += objective.detach()
                penalised = torch.zeros_like(total)
            return total

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return weights.detach()


@contextmanager
def _threads_for(work: int) -> Iterator[None]:
    """Use one thread for a small problem, whose many steps are shorter than waiting for a thread.

    On a busy machine, each step would wait until other processes let all threads continue.
    """
    threads = torch.get_num_threads()
    if work <= _WORK_FOR_ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Choice(NamedTuple):
    """A penalty, its mean loss and accuracy on held-out rows, and the weights of each fold."""

    penalty: float
    loss: float
    accuracy: float
    weights: Tensor


def _choose_penalty(problem: _Problem, held_out: Tensor, images: int) -> _Choice:
    """Return the penalty with the lowest mean loss on held-out rows.

    Args:
        problem: Rows and targets.
        held_out: (N, probes) bool, the rows that each probe is not fitted to.
        images: Number of images that the rows belong to.
    """
    shares = held_out.sum(dim=0) / held_out.sum()
    chosen = ~held_out
    weights, worse = problem.zeros(chosen.shape[1]), 0
    best = _Choice(PENALTIES[0], math.inf, 0.0, weights)
    for penalty in PENALTIES:
        if penalty < _WEAKEST / images and penalty != PENALTIES[0]:
            break
        # Warm start: the weights for a weaker penalty lie beyond those for a stronger one.
        weights = problem.minimise(chosen, penalty, weights, most_iterations=50)
        losses, right = _measured(problem, weights, held_out)
        loss = float((losses * shares).sum())
        worse = worse + 1 if loss >= best.loss else 0
        if not worse:
            best = _Choice(penalty, loss, float(right[held_out].double().mean()), weights)
        if worse == _PATIENCE:
            break
    return best


def _measured(problem: _Problem, weights: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean loss (probes,) on held-out rows, and which are correct (N, probes)."""
    losses, right = [], []
    targets, probes = problem.targets, held_out.shape[1]
    for loss, logits in problem.losses(weights, held_out):
        given, targets = targets[: len(logits)], targets[len(logits) :]
        correct = problem.task.correct(logits.flatten(0, 1), given.repeat_interleave(probes, dim=0))
        losses.append(loss)
        right.append(correct.view(-1, probes))
    return torch.stack(losses).sum(dim=0), torch.cat(right)


def _held_out(
    groups: Sequence[int], strata: Sequence[int], width: int, num_classes: int, seed: int
) -> Tensor:
    """Return which rows each fold holds out, (N, folds) bool.

    All rows of a group are in one fold, and each stratum is spread evenly over the folds.

    Args:
        groups: Group of each row.
        strata: Stratum of each row.
        width: Number of features.
        num_classes: Number of outputs.
        seed: Determines the folds.
    """
    by_group: dict[int, list[int]] = {}
    for group, stratum in zip(groups, strata, strict=True):
        by_group.setdefault(group, []).append(stratum)
    generator = torch.Generator().manual_seed(derive_seed(seed, "folds"))
    order = torch.randperm(len(by_group), generator=generator).tolist()
    names = list(by_group)
    shuffled = [names[n] for n in order]
    rows = len(groups)
    cuts = min(max(FOLDS, math.ceil(rows * num_classes / MOST_KEPT)), len(shuffled))
    dealt = deal_folds([by_group[group] for group in shuffled], cuts)
    fold_of = dict(zip(shuffled, dealt, strict=True))
    folds = torch.tensor([fold_of[group] for group in groups])
    count = cuts if rows * width * num_classes <= _MOST_WORK else 1
    return folds[:, None] == torch.arange(count)
