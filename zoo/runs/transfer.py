"""Whether pretrained features help on the images of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, Strict

from zoo.recipe import Recipe
from zoo.tasks import TASKS, metric_label

#: Metrics that a task may have, as a regular expression.
_METRICS = f"^({'|'.join(dict.fromkeys(n for task in TASKS.values() for n in task.figures))})$"

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Cross-validated accuracy of a probe on pretrained features and on those of random weights.

    It is an event too, which completes the plan.

    Attributes:
        pretrained: With features of the pretrained network, 0..1.
        random: With features of the same network with random weights, 0..1.
        baseline: Without features, by always predicting the class frequencies, 0..1.
        images: Number of train images that it was measured on.
        classes: Number of classes that it was measured on; of more than 30, some.
        p: The larger p-value of two paired tests: against random weights, and against the baseline.
        helps: Whether pretrained features are better than both, with p below 0.05.
        metric: The metric, one of the task's, with underscores.
    """

    # A dataclass of the standard library, so pydantic takes its settings from this name.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    pretrained: Share
    random: Share
    baseline: Share
    images: Annotated[int, Field(ge=1)]
    classes: Annotated[int, Field(ge=1)]
    p: Share
    helps: Annotated[bool, Strict()]
    metric: Annotated[str, Field(pattern=_METRICS)] = "accuracy"


def describe_transfer(transfer: Transfer) -> str:
    """Describe the verdict in a sentence, with what to do if pretrained features do not help."""
    name = metric_label(transfer.metric)
    figures = (
        f"{name} {transfer.pretrained:.0%} against {transfer.random:.0%} with random weights and "
        f"{transfer.baseline:.0%} without features (a probe cross-validated on {transfer.images} "
        f"train images of {transfer.classes} classes, p = {transfer.p:.2g})"
    )
    if transfer.helps:
        return f"pretrained features help here: {figures}"
    if transfer.pretrained > max(transfer.random, transfer.baseline):
        advice = "the difference may be chance, with so few images"
    elif transfer.random > transfer.baseline:
        advice = "the images differ from those of pretraining"
    else:
        advice = "no features separate the classes: check the labels with `zoo data check`"
    return (
        f"pretrained features do not clearly help here: {figures}; {advice}; consider fine-tuning "
        f"all layers, more images, or another backbone (`zoo compare`)"
    )


def why_not_measured(recipe: Recipe) -> str | None:
    """Return why a run with this resolved recipe has no verdict; None if it measures one."""
    if recipe.train == "finetune":
        return "the run has no probe"
    if recipe.weights == "none":
        return "the run starts from random weights"
    return None
