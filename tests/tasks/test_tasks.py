import pytest
import torch

from zoo.tasks import MULTI_LABEL, SINGLE_LABEL, TASKS, fitting_task


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_functions_of_a_task_agree_with_each_other(task):
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    targets = task.targets([(0,), (1,), (2,), (0,), (1,), (2,)], 3)
    probabilities = task.probabilities(logits)
    again = task.probabilities(task.logits(probabilities, 1e-30))
    torch.testing.assert_close(again, probabilities)
    confidence, applies = task.answers(logits, targets)
    assert confidence.shape == applies.shape
    losses = task.losses(logits, targets) / confidence.shape[1]
    torch.testing.assert_close(losses.mean(), task.loss(logits, targets))
    for _, answers, given in task.questions(probabilities, targets):
        torch.testing.assert_close(answers.sum(dim=1), torch.ones(6))
        assert bool((given < answers.shape[1]).all())
    assert set(task.measure(logits, targets).values) <= {*task.figures, "loss"}
    assert task.main in task.figures
    assert task.metric_if_imbalanced in (None, *task.metrics)


def test_the_task_is_that_of_the_numbers_of_labels():
    assert fitting_task([1, 1]) is SINGLE_LABEL
    assert fitting_task([1, 2]) is fitting_task([1, 0]) is MULTI_LABEL
