"""Several labels an image: targets, loss, metrics, the probe; scikit-learn as the reference."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from zoo.data.sample import Sample
from zoo.data.split import stratified_split
from zoo.features.probe import fit_probe
from zoo.tasks import MULTI_LABEL


def drawn(images=80, classes=5):
    """Logits, and targets of which the last class has none."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, classes, generator=generator)
    targets = (torch.rand(images, classes, generator=generator) < 0.3).float()
    targets[:, -1] = 0
    logits[:, 1] = -9.0  # The second is never predicted.
    return logits, targets


def test_targets_are_indicators():
    targets = MULTI_LABEL.targets([(0, 2), (), (1,)], 3)
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_metrics_are_scikit_learns():
    logits, targets = drawn()
    found = MULTI_LABEL.measure(logits, targets)
    decided = (logits.sigmoid() >= 0.5).numpy()
    truth = targets.numpy()
    precision = average_precision_score(truth[:, :-1], logits[:, :-1].numpy(), average="macro")
    assert found.values["map"] == pytest.approx(precision)
    assert found.values["accuracy"] == pytest.approx(accuracy_score(truth, decided))
    counted = (truth.sum(0) + decided.sum(0)) > 0
    each = f1_score(truth, decided, average=None, zero_division=0)
    assert found.values["f1"] == pytest.approx(each[counted].mean())
    assert found.never_predicted == (1,)


def test_the_loss_is_a_mean_over_labels_with_weights_for_positives_and_smoothing():
    logits, targets = drawn()
    weights = MULTI_LABEL.class_weights(targets.sum(0).int().tolist(), len(targets))
    assert weights[0] == pytest.approx(float((targets[:, 0] == 0).sum() / targets[:, 0].sum()))
    plain = torch.nn.BCEWithLogitsLoss(pos_weight=weights)(logits, targets)
    assert float(MULTI_LABEL.loss(logits, targets, weights)) == pytest.approx(float(plain))
    smooth = torch.nn.BCEWithLogitsLoss()(logits, targets * 0.9 + 0.05)
    assert float(MULTI_LABEL.loss(logits, targets, None, 0.1)) == pytest.approx(float(smooth))
    guess = MULTI_LABEL.loss(torch.zeros_like(logits), targets)
    assert float(guess) == pytest.approx(MULTI_LABEL.baseline([1], 2).loss) == math.log(2)


def test_logits_that_are_not_finite_have_no_precision():
    logits, targets = drawn()
    logits[0, 0] = math.nan
    assert math.isnan(MULTI_LABEL.measure(logits, targets).values["map"])


def test_the_probe_is_one_logistic_regression_a_label():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(300, 6, generator=generator)
    scores = features @ torch.randn(6, 3, generator=generator)
    targets = (scores + torch.randn(300, 3, generator=generator) > 1).float()
    probe = fit_probe(features, targets, 3, task=MULTI_LABEL)
    std = features.std(dim=0, correction=0)
    scale = std.clamp_min(float(std.median()))
    for label in range(3):
        peer = LogisticRegression(C=1 / (probe.penalty * len(features)), tol=1e-8, max_iter=1000)
        peer.fit((features / scale).numpy(), targets[:, label].numpy())
        expected = peer.decision_function((features / scale).numpy())
        found = probe.logits(features)[:, label].numpy()
        assert np.allclose(found, expected, atol=0.02)


def test_a_split_keeps_rare_labels_in_both_parts():
    labels = [("a",)] * 40 + [("a", "b")] * 10 + [()] * 10
    samples = [Sample(name=str(n), labels=each) for n, each in enumerate(labels)]
    train, val = stratified_split(samples, 0.2, 0)
    assert len(val) == 12
    assert sum("b" in s.labels for s in val) == 2
    assert sum("b" in s.labels for s in train) == 8
    assert sum(s.labels == () for s in val) == 2
