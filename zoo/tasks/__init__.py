"""Tasks: how labels become targets, the loss, the metrics and the predictions."""

from collections.abc import Sequence

from zoo.tasks.distillation import Distillation, with_unlabelled
from zoo.tasks.multi_label import MULTI_LABEL
from zoo.tasks.single_label import SINGLE_LABEL
from zoo.tasks.task import UNMEASURED, Baseline, Criterion, Metrics, Task, metric_label

#: Tasks by name, as in `Recipe.task`.
TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL)}


def fitting_task(labels: Sequence[int]) -> Task:
    """Return the task of images with these numbers of labels."""
    return SINGLE_LABEL if all(number == 1 for number in labels) else MULTI_LABEL


__all__ = [
    "MULTI_LABEL",
    "SINGLE_LABEL",
    "TASKS",
    "UNMEASURED",
    "Baseline",
    "Criterion",
    "Distillation",
    "Metrics",
    "Task",
    "fitting_task",
    "metric_label",
    "with_unlabelled",
]
