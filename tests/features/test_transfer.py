"""The verdict on transfer, from features whose worth is known; out-of-fold logits."""

from dataclasses import asdict

import pytest
import torch

from zoo.features.probe import fit_probe, out_of_fold
from zoo.features.transfer import (
    Chosen,
    choose_images,
    measure_transfer,
    some_of_each,
)
from zoo.runs.transfer import describe_transfer
from zoo.tasks import MULTI_LABEL, SINGLE_LABEL


def made(classes, images, signal, seed=0):
    """(features (N, 20), targets): classes differ in their means by `signal` deviations."""
    drawn = torch.Generator().manual_seed(seed)
    targets = torch.arange(images) % classes
    means = torch.randn(classes, 20, generator=torch.Generator().manual_seed(99)) * signal
    return torch.randn(images, 20, generator=drawn) + means[targets], targets


def verdict(signal, random_signal=0.0):
    features, targets = made(3, 90, signal)
    random, _ = made(3, 90, random_signal, seed=1)
    return measured(features, random, targets, 3)


def measured(features, random, targets, classes, task=SINGLE_LABEL, metric="accuracy"):
    images = list(range(len(targets)))
    chosen = Chosen(positions=images, targets=targets, num_classes=classes)
    groups = torch.tensor(images)
    return measure_transfer(features, random, chosen, groups, task=task, metric=metric)


def test_features_that_tell_classes_apart_help():
    found = verdict(2.0)
    assert found.helps
    assert found.pretrained > 0.9
    assert found.random < 0.6
    assert found.baseline == pytest.approx(1 / 3)
    assert found.images == 90
    assert found.p < 0.001
    assert asdict(found) == asdict(verdict(2.0))
    assert "90" in describe_transfer(found)


@pytest.mark.parametrize(("signal", "random_signal"), [(0.0, 0.0), (2.0, 2.0), (0.0, 2.0)])
def test_features_no_better_than_random_ones_do_not_help(signal, random_signal):
    found = verdict(signal, random_signal)
    assert not found.helps
    assert found.p > 0.05 or found.random > found.pretrained


def test_few_images_are_no_evidence():
    features, targets = made(2, 6, 1.0)
    random, _ = made(2, 6, 0.0, seed=1)
    found = measured(features, random, targets, 2)
    assert not found.helps


def test_of_imbalanced_classes_balanced_accuracy_decides():
    """Always naming the large class is right in 90 % of the images."""
    features, _ = made(2, 200, 1.0)
    keep = [n for n in range(200) if n % 2 == 0 or n < 22]
    targets = (torch.arange(200) % 2)[keep]
    random = torch.randn(len(keep), 20, generator=torch.Generator().manual_seed(3))
    found = measured(features[keep], random, targets, 2, metric="balanced-accuracy")
    assert found.metric == "balanced_accuracy"
    assert found.baseline == 0.5
    assert found.helps


def test_labels_that_are_seldom_decided_count_by_their_likelihood():
    drawn = torch.Generator().manual_seed(0)
    targets = (torch.rand(150, 4, generator=drawn) < 0.2).float()
    noise = torch.randn(150, 8, generator=drawn)
    features = torch.cat([targets * 2, noise[:, :4]], dim=1) + noise * 0.5
    found = measured(features, noise, targets, 4, MULTI_LABEL, "map")
    assert found.metric == "map"
    assert found.helps
    assert found.pretrained > found.random
    assert found.baseline == pytest.approx(float(targets.mean()), abs=0.02)


def test_some_images_have_the_shares_of_all():
    strata = [0] * 600 + [1] * 300 + [2] * 100
    some = some_of_each(strata, 100, seed=0)
    assert [sum(strata[n] == each for n in some) for each in range(3)] == [60, 30, 10]
    assert some == sorted(set(some)) == some_of_each(strata, 100, seed=0)
    assert some != some_of_each(strata, 100, seed=1)
    assert some_of_each(strata, 5000, seed=0) == list(range(1000))


@pytest.mark.parametrize(
    ("images", "classes", "finetunes", "expected"),
    [(5000, 2, True, 300), (200, 2, True, 200), (200, 2, False, 60), (50, 2, False, 50),
     (5000, 2, False, 300), (900, 30, False, 150), (4000, 100, True, 300)],
)  # fmt: skip
def test_the_verdict_is_measured_on_few_images(images, classes, finetunes, expected):
    targets = torch.arange(images) % classes
    chosen = choose_images(targets, classes, SINGLE_LABEL, finetunes=finetunes, seed=0)
    assert len(chosen.positions) == len(chosen.targets) == expected
    assert chosen.num_classes == min(classes, 30)
    assert len(chosen.targets.unique()) == chosen.num_classes
    # The same images have the same class.
    pairs = set(zip(targets[chosen.positions].tolist(), chosen.targets.tolist(), strict=True))
    assert len(pairs) == chosen.num_classes


def test_out_of_fold_logits_are_those_of_the_probes_cross_validation():
    features, targets = made(3, 90, 0.7)
    logits = out_of_fold(features, targets, 3)
    assert logits.shape == (90, 3)
    accuracy = float(SINGLE_LABEL.correct(logits, targets).double().mean())
    assert accuracy == pytest.approx(fit_probe(features, targets, 3).accuracy)


def test_images_of_a_group_do_not_tell_about_each_other():
    """Each patient has its own features and, by chance, a label: only images can be remembered."""
    drawn = torch.Generator().manual_seed(0)
    patients = torch.arange(160) // 8
    own = torch.randn(20, 30, generator=drawn)
    features = own[patients] + 0.1 * torch.randn(160, 30, generator=drawn)
    targets = (torch.arange(20) % 2)[patients]
    by_image, by_patient = (
        float(SINGLE_LABEL.correct(out_of_fold(features, targets, 2, groups=g), targets)
              .double().mean())
        for g in (None, patients)
    )  # fmt: skip
    assert by_image > 0.95
    assert by_patient < 0.8
