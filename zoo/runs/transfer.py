"""Whether pretrained features help on the images of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, Strict

from zoo.tasks import TASKS

#: Metrics that a task may have, as a regular expression.
_METRICS = f"^({'|'.join(dict.fromkeys(n for task in TASKS.values() for n in task.figures))})$"

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Cross-validated accuracy of a probe on pretrained features and on those of random weights.

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
