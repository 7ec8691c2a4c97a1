"""Which changes of images keep their labels: made-up features of which some say the side."""

import pytest
import torch

from zoo.features.invariance import measure_change
from zoo.planning.decisions import decide_change

COUNT, WIDTH = 120, 32


def images(*, sided, seed=0):
    """(features, the mirrored images' features, labels): a mirrored image shows the other side."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(COUNT) % 2
    plain = torch.randn(COUNT, WIDTH, generator=generator)
    mirrored = plain + 0.3 * torch.randn(COUNT, WIDTH, generator=generator)
    signs = 2.0 * labels - 1
    plain[:, 0] += 3 * signs
    mirrored[:, 0] += (-3 if sided else 3) * signs
    return plain, mirrored, labels


@pytest.mark.parametrize("sided", [False, True])
def test_images_whose_side_is_their_label_are_not_mirrored(sided):
    plain, mirrored, labels = images(sided=sided)
    change = measure_change(plain, mirrored, labels, 2, penalty=0.1)
    keeps, text = decide_change("hflip", change, 0.25)
    assert keeps is not sided
    assert f"hflip = {'no' if sided else 'yes'}" in text
    assert change.accuracy > 0.9
    assert (change.accuracy_changed < 0.2) is sided


def test_crops_that_lose_what_is_shown_are_given_up():
    plain, _, labels = images(sided=False)
    noise = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    lost = measure_change(plain, noise, labels, 2, penalty=0.01)
    assert decide_change("crop_scale", lost, 0.25)[0] == 0.6
    kept = measure_change(plain, plain + 0.1 * noise, labels, 2, penalty=0.1)
    assert decide_change("crop_scale", kept, 0.25)[0] == 0.25


def test_it_is_the_same_each_time():
    plain, mirrored, labels = images(sided=True)
    first, second = (measure_change(plain, mirrored, labels, 2, 0.1) for _ in range(2))
    assert first == second
