"""Intervals and paired tests agree with scipy's."""

import pytest
import torch
from scipy.stats import binomtest

from zoo.tasks import MULTI_LABEL, SINGLE_LABEL
from zoo.tasks.paired import class_balance, mcnemar, paired_p, wilson_interval


@pytest.mark.parametrize(("right", "images"), [(0, 7), (7, 7), (3, 10), (74, 80), (500, 1000)])
def test_wilson_interval_is_scipys(right, images):
    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert wilson_interval(right, images) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (5, 5), (12, 3), (0, 9), (900, 800)])
def test_mcnemar_is_the_exact_binomial_test(one, other):
    expected = binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected)
    assert mcnemar(other, one) == mcnemar(one, other)


def test_mcnemar_takes_counts_beyond_a_floats_range():
    assert 0 < mcnemar(1500, 1400) < 0.1


def test_paired_p_of_right_and_wrong_is_mcnemars():
    first = torch.tensor([1.0, 1, 1, 1, 1, 1, 0, 1, 0])
    second = torch.tensor([0.0, 0, 0, 0, 0, 1, 0, 1, 1])
    assert paired_p(first, second) == mcnemar(5, 1)
    assert paired_p(first, first) == 1.0


def test_the_images_of_a_group_count_as_one():
    """Twenty frames of one film that one classifier gets right are one success, not twenty."""
    first, second = torch.zeros(24), torch.zeros(24)
    first[:20] = 1
    second[20:22] = 1
    groups = torch.tensor([0] * 20 + [1, 2, 3, 4])
    assert paired_p(first, second) < 0.001
    assert paired_p(first, second, groups=groups) > 0.2
    assert paired_p(first, second, groups=torch.arange(24)) == paired_p(first, second)


def test_paired_p_of_scores_finds_a_shift_and_no_other():
    drawn = torch.Generator().manual_seed(1)
    noise = torch.randn(100, generator=drawn)
    other = torch.randn(100, generator=drawn)
    assert paired_p(noise + 1, noise * 0.9) < 0.001
    assert paired_p(noise, other) > 0.05
    assert paired_p(noise, other) == paired_p(other, noise)


def test_in_a_balanced_test_a_rare_class_counts_as_much():
    targets = torch.tensor([0] * 90 + [1] * 10)
    first, second = torch.ones(100), torch.ones(100)
    first[:9] = 0  # 10 % of the large class
    second[90:] = 0  # all of the small one
    assert paired_p(first, second) > 0.5
    weights = class_balance(targets, 2)
    assert paired_p(first, second, weights) < 0.01
    assert float(weights[targets == 0].sum()) == pytest.approx(float(weights[targets == 1].sum()))


def test_the_prior_has_the_frequencies_of_the_classes():
    found = SINGLE_LABEL.prior(torch.tensor([0, 0, 0, 2]), 3).softmax(dim=0)
    torch.testing.assert_close(found, torch.tensor([0.75, 0.0, 0.25]), atol=1e-6, rtol=0)
    present = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 0.0]] * 2)
    found = MULTI_LABEL.prior(present, 2).sigmoid()
    torch.testing.assert_close(found, torch.tensor([0.7, 0.1]))
