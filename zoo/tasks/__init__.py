"""Tasks: what labels mean, how a model learns from them, and how it is measured."""

from zoo.tasks.multi_label import MULTI_LABEL
from zoo.tasks.single_label import SINGLE_LABEL
from zoo.tasks.task import Baseline, Metrics, Task, metric_label

#: By name, as in `Recipe.task`.
TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL)}

__all__ = ["MULTI_LABEL", "SINGLE_LABEL", "TASKS", "Baseline", "Metrics", "Task", "metric_label"]
