"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from zoo.errors import RecipeError
from zoo.io.text import clip

Schedule = Literal["cosine", "linear", "polynomial", "exponential", "one-cycle", "constant"]

#: Of the one-cycle schedule, as in torch: the factor of the first step, and the last one as a
#: fraction of the first.
_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1e-4

#: Number of tensors of a parameter's size that an optimizer stores for it; the most of any other.
_MOMENTS, _MOST_MOMENTS = {"sgd": 1, "adamw": 2}, 4

#: Beginnings of the names of timm's optimizers that can't be used, and why.
UNUSABLE = {
    "adagrad": "its state exists before the first step",
    "adahessian": "it needs second derivatives",
    "bnb": "it needs bitsandbytes",
    "fused": "it needs apex",
    "kron": "it draws random numbers of which no checkpoint has the state",
}

#: Arguments of optimizers that other settings determine, or that change nothing but the speed.
_NOT_OPTIONS = frozenset({"self", "params", "lr", "weight_decay", "momentum", "foreach", "fused"})


def optimizer_names() -> list[str]:
    """Return the names of all optimizers: zoo's adamw and sgd, then those of timm."""
    from timm.optim import list_optimizers  # type: ignore[attr-defined]

    names = [name for name in map(str, list_optimizers()) if not name.startswith(tuple(UNUSABLE))]
    return sorted(names, key=lambda name: (name not in ("adamw", "sgd"), name))


def check_optimizer(name: str, options: Mapping[str, object], *, momentum: float) -> dict[str, Any]:
    """Check that there is such an optimizer, and that it takes these options.

    Returns:
        The options, each as a value of its type.

    Raises:
        RecipeError: There is no such optimizer, or it can't be used, or not with these options.
    """
    if name not in optimizer_names():
        raise _unknown(name)
    known = _options_of(name)
    wrong = [each for each in options if each not in known]
    if wrong:
        near = difflib.get_close_matches(wrong[0], known, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(
            f"`optimizer={name}` has no option {clip(repr(wrong[0]), 60)}{meant}",
            hint=f"it has {', '.join(known) or 'none'}",
        )
    checked = {each: _typed(each, value, known[each]) for each, value in options.items()}
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    group = {"params": [parameter], "lr": 0.001, "weight_decay": 0.0}
    try:
        optimizer = make_optimizer(name, [group], momentum=momentum, options=checked)
        # Some optimizers don't check their options, and fail at a step.
        for _ in range(2):
            parameter.grad = torch.ones(2, 2)
            optimizer.step()
        if not parameter.isfinite().all():
            raise ValueError("steps are not finite")
    except (ValueError, TypeError, AssertionError, ArithmeticError, RuntimeError) as error:
        raise RecipeError(
            f"`optimizer={name}` can't be used with these options: {clip(str(error), 200)}"
        ) from error
    return checked


def has_momentum(name: str) -> bool:
    """Return whether an optimizer has the argument `momentum`."""
    if name in ("adamw", "sgd"):
        return name == "sgd"
    from timm.optim import get_optimizer_info  # type: ignore[attr-defined]

    return bool(get_optimizer_info(name).has_momentum)


def make_optimizer(
    name: str,
    groups: list[dict[str, Any]],
    *,
    momentum: float,
    options: Mapping[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """Create an optimizer for groups with their own lr and weight decay.

    AdamW is fused, which halves the time of a step. SGD's fused kernel is hardly faster, and fails
    for parameters that are unfrozen later. Others are timm's, with timm's defaults.

    Each group's `initial_lr` is the rate that the schedule multiplies.

    Args:
        name: One of `optimizer_names`.
        groups: Parameter groups.
        momentum: Momentum of SGD and of other optimizers that timm gives this argument.
        options: Values of the optimizer's own arguments, as `check_optimizer` returns them.
    """
    groups = [{**g, "initial_lr": g["lr"]} for g in groups]
    options = options or {}
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, **options)
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True, **options)
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    # Weight decay that depends on the learning rate takes `lr` for the largest one.
    largest = max(group["lr"] for group in groups)
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=name, lr=largest, weight_decay=0.0, momentum=momentum, **options
    )
    return optimizer


def moments(name: str) -> int:
    """Return how many tensors of a parameter's size an optimizer stores for it, at most."""
    return _MOMENTS.get(name, _MOST_MOMENTS)


def lr_factor(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int,
    schedule: Schedule,
    power: float = 1.0,
    warmup_start: float | None = None,
    warmup_prefix: bool = True,
) -> float:
    """Return the factor of the learning rates at a step (counted from 0).

    Linear warm-up, then constant or one decay: half a cosine (Loshchilov and Hutter, 2017), linear,
    polynomial or exponential. The one-cycle schedule (Smith and Topin, 2018) rises along half a
    cosine and decays along another. It depends on the step alone, so that a resumed run needs no
    scheduler state.

    Args:
        step: The step.
        total_steps: Steps of the whole run.
        warmup_steps: Steps of warm-up.
        schedule: What follows the warm-up.
        power: Of `polynomial`, the exponent; of `exponential`, the final factor is 10 ** -power.
        warmup_start: Factor at step 0; None: 1 / (`warmup_steps` + 1), as if the step before had 0;
            of `one-cycle`, 1 / 25.
        warmup_prefix: Whether the decay starts after the warm-up instead of at step 0, of which the
            warm-up then replaces the first steps.
    """
    if schedule == "one-cycle":
        start = _ONE_CYCLE_START if warmup_start is None else warmup_start
        return _one_cycle(step, total_steps, warmup_steps, start)
    if step < warmup_steps:
        if warmup_start is None:
            return (step + 1) / (warmup_steps + 1)
        return warmup_start + (1 - warmup_start) * step / warmup_steps
    before = warmup_steps if warmup_prefix else 0
    progress = (step - before) / max(1, total_steps - before)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "polynomial":
        return float((1.0 - progress) ** power)
    if schedule == "exponential":
        return float(10.0 ** (-power * progress))
    return _half_cosine(progress)


def _one_cycle(step: int, total_steps: int, warmup_steps: int, start: float) -> float:
    """Return the factor of torch's OneCycleLR, whose last step of warm-up has the full rate."""
    top = max(0, warmup_steps - 1)
    if step < top:
        return 1.0 + (start - 1.0) * _half_cosine(step / top)
    end = start * _ONE_CYCLE_END
    return end + (1.0 - end) * _half_cosine((step - top) / max(1, total_steps - 1 - top))


def _half_cosine(progress: float) -> float:
    """Return half a cosine, from 1 at 0 to 0 at 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to its `initial_lr` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def rate_of(optimizer: torch.optim.Optimizer, part: str) -> float:
    """Return a part's learning rate, 0 if frozen; for the backbone that of its deepest depth."""
    rates = [
        group["lr"]
        for group in optimizer.param_groups
        if group["part"] == part and any(p.requires_grad for p in group["params"])
    ]
    return rates[-1] if rates else 0.0


def describe_rates(optimizer: torch.optim.Optimizer) -> str:
    """Describe the learning rates of backbone and head."""
    rates = ", ".join(f"{part} {rate_of(optimizer, part):g}" for part in ("backbone", "head"))
    return f"learning rates: {rates}"


def _unknown(name: str) -> RecipeError:
    why = next((why for start, why in UNUSABLE.items() if name.startswith(start)), None)
    names = optimizer_names()
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(map(repr, near))}?" if near else "adamw and sgd are two;"
    text = f"no `optimizer` {clip(repr(name), 60)}" if why is None else f"`optimizer={name}`: {why}"
    return RecipeError(text, hint=f"{meant} docs/defaults.md lists all {len(names)}")


def _options_of(name: str) -> dict[str, object]:
    """Return the options of an optimizer, with their defaults."""
    from timm.optim import get_optimizer_info  # type: ignore[attr-defined]

    info = get_optimizer_info(name)
    made: Any = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}.get(name) or info.opt_class
    own: dict[str, Any] = {} if name in ("sgd", "adamw") else info.defaults or {}
    # timm would drop these two without a word.
    dropped = {key for key, has in (("eps", info.has_eps), ("betas", info.has_betas)) if not has}
    arguments = inspect.signature(made).parameters
    return {
        key: own.get(key, argument.default)
        for key, argument in arguments.items()
        if key not in _NOT_OPTIONS | dropped
    }


def _typed(name: str, value: object, default: object) -> object:
    """Return the value of an option as a value of its default's type.

    Raises:
        RecipeError: It has another type.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and len(value) == len(default):
            return tuple(value)
        wanted = f"{len(default)} numbers, such as {', '.join(map(str, default))}"
    elif isinstance(default, bool):
        if isinstance(value, bool):
            return value
        wanted = "true or false"
    elif isinstance(default, float):
        if number:
            return float(value)  # type: ignore[arg-type]
        wanted = f"a number, such as {default:g}"
    elif isinstance(default, int):
        if number and isinstance(value, int):
            return value
        wanted = f"a whole number, such as {default}"
    else:
        return value
    raise RecipeError(f"`optimizer_options`: {name} = {clip(repr(value), 60)} must be {wanted}")
