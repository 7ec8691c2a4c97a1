"""The loss of distillation, by its definition."""

import math

import pytest
import torch

from zoo.tasks import MULTI_LABEL, SINGLE_LABEL, Distillation, with_unlabelled

TASKS = pytest.mark.parametrize("task", [SINGLE_LABEL, MULTI_LABEL], ids=lambda task: task.name)


def softmax(logits, temperature):
    powers = [math.exp(z / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def sigmoid(logit, temperature):
    return 1 / (1 + math.exp(-logit / temperature))


def made(task, weight=0.5, temperature=2.0, classes=2):
    return Distillation(task=task, num_classes=classes, weight=weight, temperature=temperature)


def test_of_one_label_it_is_the_divergence_of_softened_outputs():
    student, teacher, temperature = [1.0, -0.5], [3.0, 1.0], 2.0
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    by_label = -math.log(softmax(student, 1.0)[1])
    distillation = made(SINGLE_LABEL, 0.3, temperature)
    targets = distillation.targets(torch.tensor([1]), torch.tensor([teacher]))
    expected = 0.7 * by_label + 0.3 * temperature**2 * divergence
    assert distillation.loss(torch.tensor([student]), targets) == pytest.approx(expected)


def test_of_several_labels_it_is_the_cross_entropy_of_softened_outputs():
    student, teacher, temperature = [1.0, -0.5], [3.0, -1.0], 2.0

    def entropies(truth, temperature):
        predicted = [sigmoid(z, temperature) for z in student]
        return [
            -t * math.log(p) - (1 - t) * math.log(1 - p)
            for t, p in zip(truth, predicted, strict=True)
        ]

    by_label = sum(entropies([1.0, 0.0], 1.0)) / 2
    by_teacher = sum(entropies([sigmoid(z, temperature) for z in teacher], temperature)) / 2
    distillation = made(MULTI_LABEL, 0.3, temperature)
    targets = distillation.targets(torch.tensor([[1.0, 0.0]]), torch.tensor([teacher]))
    expected = 0.7 * by_label + 0.3 * temperature**2 * by_teacher
    assert distillation.loss(torch.tensor([student]), targets) == pytest.approx(expected)


def labels_of(task, drawn, count=6, classes=3):
    if task is SINGLE_LABEL:
        return torch.randint(classes, (count,), generator=drawn)
    return torch.randint(2, (count, classes), generator=drawn).to(torch.float32)


@TASKS
def test_an_unlabelled_image_has_the_teachers_part_alone(task):
    drawn = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 6, 3, generator=drawn)
    distillation = made(task, 0.3, classes=3)
    given = labels_of(task, drawn, count=4)
    targets = distillation.targets(with_unlabelled(task, given, 2, 3), teacher)
    labelled = distillation.targets(given, teacher[:4])
    weights = torch.tensor([0.5, 1.0, 2.0])
    taught = 0.3 * task.distill_losses(logits[4:], teacher[4:], 2.0).sum() / task.terms(3)
    expected = (4 * distillation.loss(logits[:4], labelled, weights, 0.1) + taught) / 6
    torch.testing.assert_close(distillation.loss(logits, targets, weights, 0.1), expected)


@TASKS
def test_a_partly_labelled_mixture_has_the_labels_part_in_its_share(task):
    drawn = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 1, 3, generator=drawn)
    distillation = made(task, 0.5, classes=3)
    labelled, unlabelled = with_unlabelled(task, labels_of(task, drawn, count=1), 1, 3)
    losses = [
        distillation.loss(logits, distillation.targets(each[None], teacher))
        for each in (labelled, unlabelled, 0.75 * labelled + 0.25 * unlabelled)
    ]
    torch.testing.assert_close(losses[2], 0.75 * losses[0] + 0.25 * losses[1])


@TASKS
def test_a_batch_in_parts_has_the_loss_of_the_whole(task):
    drawn = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 6, 3, generator=drawn)
    weights = torch.tensor([0.5, 1.0, 2.0])
    distillation = made(task, classes=3)
    targets = distillation.targets(labels_of(task, drawn), teacher)
    shares = distillation.weights(targets, weights)
    parts = [
        distillation.loss(logits[part], targets[part], weights) * shares[part].sum() / shares.sum()
        for part in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(parts), distillation.loss(logits, targets, weights))


@TASKS
def test_the_loss_is_least_where_the_student_is_the_teacher(task):
    teacher = torch.tensor([[2.0, -1.0, 0.5]])
    student = teacher.clone().requires_grad_()
    distillation = made(task, 1.0, classes=3)
    targets = distillation.targets(with_unlabelled(task, labels_of(task, None, 0), 1, 3), teacher)
    distillation.loss(student, targets).backward()
    torch.testing.assert_close(student.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)


def test_correct_is_the_label_or_what_the_teacher_says_of_an_unlabelled_image():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    teacher = torch.tensor([[0.0, 9.0], [9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    given = with_unlabelled(SINGLE_LABEL, torch.tensor([0, 1]), 2, 2)
    distillation = made(SINGLE_LABEL)
    right = distillation.correct(logits, distillation.targets(given, teacher))
    assert right.tolist() == [True, False, False, True]
