"""Confident learning on made-up features, and comparison of small images."""

import numpy as np
import pytest
import torch
from PIL import ImageOps

from tests.data.scenes import scene
from zoo.data.check.alignment import CLEAR, SIDE, alignment
from zoo.features.copies import find_copies
from zoo.features.probe import Origin, fit_probe
from zoo.features.suspects import LEAST, confident_errors, find_suspects
from zoo.tasks import MULTI_LABEL, SINGLE_LABEL


def clouds(count=120, classes=3, spread=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = 2 * torch.randn(classes, 16, generator=generator)
    return centres[labels] + spread * torch.randn(count, 16, generator=generator), labels


def test_confident_joint_by_hand():
    """Thresholds are the mean probability of each class over its images: 0.7 and 0.6."""
    given = torch.tensor([0] * 5 + [1] * 5)
    of_first = torch.tensor([0.9, 0.9, 0.9, 0.5, 0.3, 0.8, 0.35, 0.3, 0.3, 0.25])
    probabilities = torch.stack([of_first, 1 - of_first], dim=1)
    assert confident_errors(probabilities, given) == [(4, 1), (5, 0)]


def test_swapped_labels_are_first_and_named():
    features, labels = clouds()
    given = labels.clone()
    swapped = [4, 50, 77, 91]
    given[swapped] = (labels[swapped] + 1) % 3
    found = find_suspects(features, given, 3, task=SINGLE_LABEL)
    assert {each.position for each in found.ranked[:4]} == set(swapped)
    assert all(each.suggested == labels[each.position] for each in found.ranked[:4])
    assert [each.score for each in found.ranked] == sorted(each.score for each in found.ranked)
    assert len(find_suspects(features, labels, 3, task=SINGLE_LABEL).ranked) <= 1


def test_the_probe_of_a_run_has_the_held_out_predictions():
    features, labels = clouds()
    labels[[4, 50]] = (labels[[4, 50]] + 1) % 3
    origin = Origin(images=torch.arange(len(labels)), groups=torch.arange(len(labels)) // 2)
    probe = fit_probe(features, labels, 3, origin=origin, seed=3)
    own = find_suspects(features, labels, 3, task=SINGLE_LABEL, groups=origin.groups, seed=3)
    reused = find_suspects(
        features,
        labels,
        3,
        task=SINGLE_LABEL,
        groups=origin.groups,
        seed=3,
        held_out=probe.held_out,
    )
    assert own.ranked
    assert own.ranked == reused.ranked
    assert torch.equal(own.probabilities, reused.probabilities)


def test_labels_of_several_are_judged_one_by_one():
    features, labels = clouds()
    targets = torch.nn.functional.one_hot(labels, 3).float()
    targets[10, labels[10]] = 0
    targets[20, (labels[20] + 1) % 3] = 1
    found = find_suspects(features, targets, 3, task=MULTI_LABEL)
    changes = {(each.position, each.label, each.suggested) for each in found.ranked}
    assert (10, int(labels[10]), 1) in changes
    assert (20, int(labels[20] + 1) % 3, 0) in changes
    assert len(changes) <= 4


def test_planted_faults_of_several_labels_are_found_in_both_directions():
    """Of 1,600 labels, 2 % are wrong: half of these are missing, half are given wrongly."""
    generator = torch.Generator().manual_seed(0)
    true = (torch.rand(400, 4, generator=generator) < torch.tensor([0.5, 0.3, 0.2, 0.1])).float()
    directions = torch.randn(4, 16, generator=generator)
    features = true @ directions + 0.3 * torch.randn(400, 16, generator=generator)
    given = true.clone()
    planted = set()
    for value in (0, 1):
        places = (true == value).nonzero()
        for n in torch.randperm(len(places), generator=generator)[:16].tolist():
            row, label = places[n].tolist()
            given[row, label] = 1 - value
            planted.add((row, label, value))
    ranked = find_suspects(features, given, 4, task=MULTI_LABEL).ranked
    found = [(each.position, each.label, each.suggested) for each in ranked]
    assert len(planted & set(found[:32])) >= 29
    assert len(found) <= 64
    for value in (0, 1):
        of_kind = {each for each in planted if each[2] == value}
        assert len(of_kind & set(found)) >= 14


def test_a_class_of_few_images_is_not_judged():
    features, labels = clouds()
    labels[labels == 2] = 1
    labels[: LEAST - 1] = 2
    found = find_suspects(features, labels, 3, task=SINGLE_LABEL)
    assert found.not_judged == (2,)
    assert all(2 not in (each.label, each.suggested) for each in found.ranked)


def test_groups_stay_together():
    """Each image has a twin with the same wrong label, by which it would be explained."""
    features, labels = clouds(60)
    labels[7] = (labels[7] + 1) % 3
    features, labels = features.repeat(2, 1), labels.repeat(2)
    groups = torch.arange(60).repeat(2)
    found = find_suspects(features, labels, 3, task=SINGLE_LABEL, groups=groups)
    assert {each.position for each in found.ranked[:2]} == {7, 67}


def small(image):
    pixels = np.asarray(image.resize((SIDE, SIDE)), np.float32)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


@pytest.mark.parametrize("box", [(0, 0, 160, 120), (16, 6, 156, 110), (0, 0, 130, 120)])
def test_a_part_is_aligned_with_the_whole_and_other_pictures_are_not(box):
    part = small(scene(1).crop(box))[None]
    assert alignment(small(scene(1))[None], part) > CLEAR
    assert alignment(part, small(scene(1))[None]) > CLEAR
    assert alignment(small(scene(2))[None], part) < 0.8
    assert alignment(torch.full((1, 3, SIDE, SIDE), 9.0), part) < 0.8


def test_copies_need_similar_features_and_pixels():
    images = [scene(0), ImageOps.mirror(scene(0)), scene(1), scene(0).crop((8, 8, 150, 112))]
    asked = []

    def pixels(chosen):
        asked.extend(chosen)
        return torch.stack([small(images[n]) for n in chosen])

    one, other = torch.eye(2)
    # The third has the features of the first, and the pixels of another picture.
    plain = torch.stack([one, other, one, one])
    mirrored = torch.stack([other, one, other, other])
    found = find_copies(plain, mirrored, pixels)
    assert [(each.one, each.other, each.mirrored) for each in found] == [
        (0, 1, True),
        (0, 3, False),
        (1, 3, True),
    ]
    assert sorted(set(asked)) == [0, 1, 2, 3]
