"""Tasks: how labels become targets, the loss, the metrics and the predictions."""

from zoo.tasks.multi_label import MULTI_LABEL
from zoo.tasks.single_label import SINGLE_LABEL
from zoo.tasks.task import UNMEASURED, Baseline, Metrics, Task, metric_label

#: Tasks by name, as in `Recipe.task`.
TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL)}

__all__ = [
    "MULTI_LABEL",
    "SINGLE_LABEL",
    "TASKS",
    "UNMEASURED",
    "Baseline",
    "Metrics",
    "Task",
    "metric_label",
]
