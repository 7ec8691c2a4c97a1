"""The probe on made-up features, beside scikit-learn's logistic regression."""

import numpy as np
import numpy.testing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.preprocessing import StandardScaler

from zoo.errors import TrainingError
from zoo.features import probe as probe_module
from zoo.features.probe import PENALTIES, Origin, fit_probe


def clouds(count=120, width=8, classes=3, spread=2.0, seed=0):
    """Overlapping clouds of points (features (N, C), labels (N,)), columns of unlike scales."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=generator)
    features = centres[labels] + spread * torch.randn(count, width, generator=generator)
    return features * 10.0 ** torch.linspace(-0.5, 0.5, width) + 5, labels


def floored_scale(features):
    """Standard deviations (C,), none below their median."""
    std = features.std(dim=0, correction=0)
    return std.clamp_min(std.quantile(0.5, interpolation="lower")).numpy()


def sklearn_fit(features, labels, penalty, *, row_weights=None):
    """(weights (classes, C), bias) of the same objective, for features as they are."""
    scaler = StandardScaler().fit(features)
    scaler.scale_ = floored_scale(features)
    total = len(features) if row_weights is None else row_weights.sum()
    fitted = LogisticRegression(C=1 / (total * penalty), tol=1e-8, max_iter=10_000)
    fitted.fit(scaler.transform(features), labels, sample_weight=row_weights)
    weight = fitted.coef_ / scaler.scale_
    return weight, fitted.intercept_ - weight @ scaler.mean_


def check_equals(probe, features, weight, bias, atol=2e-3):
    """As softmax sees them: a constant added to all of an image's logits says nothing."""
    found = probe.logits(features).double().numpy()
    expected = features.double().numpy() @ weight.T + bias
    for logits in (found, expected):
        logits -= logits.mean(axis=1, keepdims=True)
    npt.assert_allclose(found, expected, atol=atol * np.abs(expected).max())
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.99
    scale = floored_scale(features)
    npt.assert_allclose(probe.weight.numpy() * scale, weight * scale, atol=5e-3)


@pytest.mark.parametrize("spread", [0.7, 2.0, 5.0])
def test_it_equals_scikit_learns_logistic_regression(spread):
    features, labels = clouds(spread=spread)
    probe = fit_probe(features, labels, 3)
    assert probe.penalty in PENALTIES
    check_equals(probe, features, *sklearn_fit(features, labels, probe.penalty))


def test_class_weights_are_those_of_the_loss():
    features, labels = clouds()
    keep = (labels != 2) | (torch.arange(len(labels)) % 5 == 0)
    features, labels = features[keep], labels[keep]
    class_weights = torch.tensor([0.5, 1.0, 8.0])
    probe = fit_probe(features, labels, 3, class_weights=class_weights)
    row_weights = class_weights[labels].numpy()
    check_equals(
        probe, features, *sklearn_fit(features, labels, probe.penalty, row_weights=row_weights)
    )
    plain = fit_probe(features, labels, 3)
    rare = [(p.logits(features).argmax(dim=1) == 2).sum() for p in (probe, plain)]
    assert rare[0] > rare[1]


def test_label_smoothing_spreads_a_share_of_the_target_evenly():
    """As if each image were there with each label, weighted."""
    features, labels = clouds(spread=1.0)
    probe = fit_probe(features, labels, 3, label_smoothing=0.3)
    repeated = features.repeat(3, 1)
    every_label = torch.arange(3).repeat_interleave(len(features))
    row_weights = torch.where(every_label == labels.repeat(3), 0.8, 0.1).double().numpy()
    check_equals(
        probe, features, *sklearn_fit(repeated, every_label, probe.penalty, row_weights=row_weights)
    )
    surest = [
        fit_probe(features, labels, 3, label_smoothing=s).logits(features).softmax(1).max()
        for s in (0.0, 0.3)
    ]
    assert surest[0] > surest[1]


def test_its_accuracy_is_that_of_images_not_seen():
    """What it says of cross-validation is what scikit-learn finds with that penalty."""
    features, labels = clouds(count=300, spread=2.0)
    probe = fit_probe(features, labels, 3)
    rows = StandardScaler().fit_transform(features)
    model = LogisticRegression(C=1 / (240 * probe.penalty), max_iter=1000)
    expected = cross_val_score(model, rows, labels, cv=5).mean()
    assert probe.accuracy == pytest.approx(expected, abs=0.04)
    seen = (probe.logits(features).argmax(dim=1) == labels).double().mean()
    assert probe.accuracy < seen


def test_the_penalty_is_stronger_where_features_say_less():
    noise = torch.randn(60, 200, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(60) % 3
    telling, telling_labels = clouds(count=60, spread=0.3)
    assert fit_probe(noise, labels, 3).penalty > 10 * fit_probe(telling, telling_labels, 3).penalty


@pytest.mark.parametrize("per_class", [5, 10])
@pytest.mark.slow
def test_few_images_give_probabilities_that_are_worth_something(per_class):
    """Two overlapping classes in many dimensions, which any weights tell apart on so few images."""
    losses, theirs = [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(2 * per_class + 400) % 2
        features = torch.randn(len(labels), 500, generator=generator)
        features[:, :20] += 0.4 * (2.0 * labels[:, None] - 1)
        train, rest = slice(0, 2 * per_class), slice(2 * per_class, None)
        probe = fit_probe(features[train], labels[train], 2)
        assert probe.penalty >= 1 / (2 * per_class)
        logits = probe.logits(features[rest])
        losses.append(float(torch.nn.functional.cross_entropy(logits, labels[rest])))
        other = LogisticRegressionCV(
            cv=5, scoring="neg_log_loss", l1_ratios=(0.0,), use_legacy_attributes=False
        )
        other.fit(features[train].numpy(), labels[train].numpy())
        theirs.append(log_loss(labels[rest], other.predict_proba(features[rest].numpy())))
    assert np.mean(losses) < 0.69  # guessing
    assert np.mean(losses) < 1.05 * np.mean(theirs)


def test_views_of_an_image_are_never_told_apart_by_cross_validation():
    """Noise and random labels, each image four times: only a leak could be better than chance."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100, 64, generator=generator).repeat(4, 1)
    labels = torch.randint(2, (100,), generator=generator).repeat(4)
    images = torch.arange(100).repeat(4)
    assert fit_probe(noise, labels, 2).accuracy > 0.9
    assert fit_probe(
        noise, labels, 2, origin=Origin(images=images, groups=images)
    ).accuracy == pytest.approx(0.5, abs=0.12)
    scores = cross_val_score(
        LogisticRegression(), noise, labels, groups=images, cv=GroupKFold(n_splits=5)
    )
    assert scores.mean() == pytest.approx(0.5, abs=0.12)


def test_features_that_are_nearly_constant_get_no_large_weights():
    """As on images unlike those of pretraining: a tenth of the features hardly ever vary."""
    features, labels = clouds(count=60, width=200, spread=3.0)
    features = (features - 5) / 10.0 ** torch.linspace(-0.5, 0.5, 200)
    plain = fit_probe(features, labels, 3)
    features[:, :20] *= 1e-4
    dead = fit_probe(features, labels, 3)
    assert dead.weight.norm() < 1.5 * plain.weight.norm()


def test_a_constant_feature_has_no_weight():
    features, labels = clouds()
    for value in (0.0, 0.1, 1e4):
        features[:, 3] = value
        probe = fit_probe(features, labels, 3)
        assert probe.weight[:, 3].abs().max() * (value + 1) < 1e-3
        assert torch.isfinite(probe.bias).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value):
    features, labels = clouds()
    features[7, 2] = value
    with pytest.raises(TrainingError, match=r"features .* finite"):
        fit_probe(features, labels, 3)


def test_the_same_comes_out_each_time_and_nothing_else_is_drawn():
    features, labels = clouds()
    before = torch.get_rng_state()
    probes = [fit_probe(features, labels, 3, seed=3) for _ in range(2)]
    assert torch.equal(probes[0].weight, probes[1].weight)
    assert torch.equal(probes[0].bias, probes[1].bias)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_the_folds():
    features, labels = clouds(spread=3.0)
    assert len({fit_probe(features, labels, 3, seed=seed).loss for seed in range(3)}) == 3


@pytest.mark.parametrize("counts", [(1, 20, 20), (1, 1, 1), (1, 2, 1)])
def test_few_images_are_enough(counts):
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    features = 3.0 * torch.eye(3)[labels]
    features += 0.1 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    probe = fit_probe(features, labels, 3)
    assert torch.equal(probe.logits(features).argmax(dim=1), labels)
    assert np.isfinite(probe.loss)
    assert 0 <= probe.accuracy <= 1


def test_a_class_without_images_is_never_given():
    features, labels = clouds()
    probe = fit_probe(features, labels, 4)
    assert probe.weight.shape == (4, 8)
    assert (probe.logits(features).argmax(dim=1) != 3).all()


def test_where_that_would_be_much_work_one_fold_alone_is_held_out(monkeypatch):
    """A fifth of the images, so of 50 it is right in so many tenths; in all folds, in fiftieths."""
    features, labels = clouds(count=50, spread=3.0)
    of_fifty = fit_probe(features, labels, 3).accuracy * 50
    assert of_fifty == pytest.approx(round(of_fifty))
    assert round(of_fifty) % 5
    monkeypatch.setattr("zoo.features.probe._MOST_WORK", 0)
    of_ten = fit_probe(features, labels, 3).accuracy * 10
    assert of_ten == pytest.approx(round(of_ten))


@pytest.mark.parametrize("groups", [None, 30])
def test_parts_of_the_rows_give_the_same_probe(monkeypatch, groups):
    """As many classes and rows need, whose logits would not fit into the memory."""
    features, labels = clouds()
    origin = None
    if groups is not None:
        images = torch.arange(len(features))
        origin = Origin(images=images, groups=images % groups)
    options = {"origin": origin, "class_weights": torch.tensor([0.5, 1.0, 2.0])}
    whole = fit_probe(features, labels, 3, **options)
    monkeypatch.setattr(probe_module, "_MOST_LOGITS", 100)
    parts = fit_probe(features, labels, 3, **options)
    assert parts.penalty == whole.penalty
    assert parts.loss == pytest.approx(whole.loss, rel=1e-4)
    assert parts.accuracy == whole.accuracy
    weights, bias = whole.weight.double().numpy(), whole.bias.double().numpy()
    check_equals(parts, features, weights, bias)
    torch.testing.assert_close(parts.held_out, whole.held_out, atol=0.02, rtol=0.02)
    assert parts.held_out_rows.tolist() == list(range(120))


def test_logits_of_a_part_of_a_large_dataset_are_held_out(monkeypatch):
    features, labels = clouds(count=600)
    monkeypatch.setattr(probe_module, "_MOST_WORK", 1000)
    monkeypatch.setattr(probe_module, "MOST_KEPT", 180)
    probe = fit_probe(features, labels, 3)
    assert probe.held_out.shape == (len(probe.held_out_rows), 3)
    assert probe.held_out.numel() == pytest.approx(180, rel=0.1)
    assert probe.held_out.isfinite().all()
    right = probe.held_out.argmax(dim=1) == labels[probe.held_out_rows]
    assert probe.accuracy == pytest.approx(float(right.double().mean()))
