"""How accuracy grows with the number of images is measured and extrapolated."""

import numpy as np
import pytest
import torch

from zoo.data.sample import Sample
from zoo.features.growth import _curves, measure_growth
from zoo.features.probe import fit_probe
from zoo.tasks import SINGLE_LABEL


def features(count: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    means = torch.randn(classes, 64, generator=torch.Generator().manual_seed(0)) * 0.35
    return torch.randn(count, 64, generator=generator) + means[targets], targets


def samples(count: int) -> list[Sample]:
    return [Sample(name=str(n), labels=("a",)) for n in range(count)]


def growth(learnt, val):
    probe = fit_probe(*learnt, 4)
    drawn = samples(len(learnt[0]))
    task = SINGLE_LABEL
    return measure_growth(probe, drawn, learnt, val, num_classes=4, task=task, seed=0)


def test_more_images_give_better_probes_and_an_interval_that_holds():
    learnt, val = features(200, 4, 1), features(400, 4, 2)
    found = growth(learnt, val)
    assert found.images == (20, 40, 100, 200)
    means = [np.mean(each) for each in found.accuracy]
    assert means[0] < means[-1]
    gain, low, high = found.gain
    assert 0 <= low <= gain <= high
    # What twice as many images really give.
    twice = features(400, 4, 3)
    right = fit_probe(*twice, 4).logits(val[0]).argmax(dim=1) == val[1]
    assert low - 0.03 <= float(right.double().mean()) - means[-1] <= high + 0.03
    assert growth(learnt, val) == found


def test_too_few_images_are_not_measured():
    assert growth(features(8, 4, 1), features(40, 4, 2)) is None


def test_a_curve_without_noise_is_found():
    counts = np.array([20.0, 50.0, 100.0, 400.0])
    (a, b, c), *_ = _curves(counts, (0.05 + 2 * counts**-0.6)[None])
    assert (a, b, c) == pytest.approx((0.05, 2, 0.6), abs=1e-6)
