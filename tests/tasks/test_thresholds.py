"""Thresholds by class: the best F1 of held-out images, shrunk; the default where there are few."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from zoo.runs.temperature import calibrate
from zoo.tasks import MULTI_LABEL, SINGLE_LABEL
from zoo.tasks.thresholds import f1_thresholds


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def drawn(images, prevalence, rng, *, shift=0.0):
    """Probabilities and labels of a class; the log-odds are those of the truth, plus `shift`."""
    truth = rng.random(images) < prevalence
    log_odds = 2 * rng.normal(size=images) + 4 * truth - 2 + np.log(prevalence / (1 - prevalence))
    return sigmoid(log_odds + shift), truth


def test_the_middle_of_the_best_thresholds_is_shrunk_by_the_number_of_images():
    probabilities = np.array([0.4] * 10 + [0.3] + [0.1] * 20)[:, None]
    truth = np.array([True] * 11 + [False] * 20)[:, None]
    (found,) = f1_thresholds(probabilities, truth)
    middle = (np.log(0.3 / 0.7) + np.log(0.1 / 0.9)) / 2
    assert found == pytest.approx(sigmoid(middle * 11 / 16), rel=1e-3)
    # The images without the label are fewer, and are what it rests on.
    (found,) = f1_thresholds(probabilities[:15], truth[:15])
    assert found == pytest.approx(sigmoid(middle * 4 / 9), rel=1e-3)


def test_equal_probabilities_are_not_separated():
    probabilities = np.array([0.2] * 40 + [0.05] * 40)[:, None]
    truth = (np.arange(80) % 2 == 0) & (np.arange(80) < 40)
    (found,) = f1_thresholds(probabilities, truth[:, None])
    assert 0.05 < found < 0.2


def test_of_many_images_it_is_the_threshold_with_the_best_f1():
    rng = np.random.default_rng(0)
    probabilities, truth = drawn(5000, 0.1, rng, shift=-1.5)
    (found,) = f1_thresholds(probabilities[:, None], truth[:, None])
    best = max(f1_score(truth, probabilities >= t) for t in np.linspace(0.01, 0.99, 99))
    assert f1_score(truth, probabilities >= found) > best - 0.01
    assert best > f1_score(truth, probabilities >= 0.5) + 0.05


def test_classes_with_few_images_keep_the_default():
    rng = np.random.default_rng(0)
    probabilities = rng.random((50, 4))
    truth = np.zeros((50, 4), dtype=bool)
    truth[:2, 1], truth[2:, 2], truth[::2, 3] = True, True, True
    found = f1_thresholds(probabilities, truth)
    assert found[:3] == (0.5, 0.5, 0.5)
    assert found[3] != 0.5
    assert f1_thresholds(probabilities[:, :3], truth[:, :3]) == ()
    assert f1_thresholds(probabilities[:0], truth[:0]) == ()


@pytest.mark.medium
@pytest.mark.parametrize("positives", [4, 16])
def test_new_images_gain_on_average_even_with_few_held_out(positives):
    """With a shift of 1, the default is close to the best threshold already."""
    rng = np.random.default_rng(0)
    gains = {shift: [] for shift in (-1.0, 0.0, 1.0)}
    for shift, each in gains.items():
        for _ in range(60):
            probabilities, truth = drawn(positives * 10, 0.1, rng, shift=shift)
            new, expected = drawn(4000, 0.1, rng, shift=shift)
            found = f1_thresholds(probabilities[:, None], truth[:, None]) or (0.5,)
            scores = [f1_score(expected, new >= t) for t in (found[0], 0.5)]
            each.append(scores[0] - scores[1])
    assert np.mean(gains[-1.0]) > 0.05
    assert np.mean(gains[0.0]) > 0.01
    assert np.mean(gains[1.0]) > -0.02


def test_a_label_is_predicted_from_its_own_threshold_on():
    logits = torch.tensor([[0.2, 0.2], [0.6, 0.6]]).logit()
    task = MULTI_LABEL.with_thresholds((0.1, 0.7))
    assert task.decide(logits).tolist() == [[1, 0], [1, 0]]
    assert MULTI_LABEL.decide(logits).tolist() == [[0, 0], [1, 1]]
    assert task.correct(logits, torch.tensor([[1.0, 0.0], [1.0, 1.0]])).tolist() == [True, False]
    assert task.with_thresholds(()) == MULTI_LABEL


def test_they_are_chosen_with_the_temperature_and_for_several_labels_only():
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(200, 3, generator=generator) < 0.2).float()
    logits = 4 * (torch.randn(200, 3, generator=generator) + 2 * targets - 2)
    found = calibrate(logits, targets, MULTI_LABEL, probe=False)
    assert found.temperature != 1
    assert found.thresholds == MULTI_LABEL.fit_thresholds(logits / found.temperature, targets)
    assert len(found.thresholds) == 3
    assert calibrate(logits, targets.argmax(dim=1), SINGLE_LABEL, probe=False).thresholds == ()
