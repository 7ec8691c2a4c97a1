"""The checks of losses and of transforms, proven by faults."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import zoo
from tests.testing.results import failed
from zoo.errors import PluginError
from zoo.testing import check_loss, check_names, check_transform


def declared(code):
    return zoo.Factory(name="own", make=lambda: code, summary="One of this file")


def smooth(logits, targets):
    """A loss as it should be, for class indices and for shares of classes."""
    return cross_entropy(logits, targets, label_smoothing=0.1)


def indices_only(logits, targets):
    """It takes the targets of one task only, which is no fault."""
    return -logits.log_softmax(dim=1)[torch.arange(len(targets)), targets].mean()


class Drifting:
    def __init__(self):
        self.calls = 0

    def __call__(self, logits, targets):
        self.calls += 1
        return (1 + 0.1 * self.calls) * cross_entropy(logits, targets)


#: Fault -> (the loss, the checks that catch it).
LOSSES = {
    "no function": ("focal", {"check_loss_is_made"}),
    "parameters": (nn.Linear(4, 4), {"check_loss_is_made"}),
    "of each image": (
        lambda logits, targets: cross_entropy(logits, targets, reduction="none"),
        {"check_loss_is_one_number"},
    ),
    "raises": (lambda logits, targets: logits @ targets.T.T.T, {"check_loss_is_one_number"}),
    "not finite": (
        lambda logits, targets: cross_entropy(logits, targets) / 0,
        {"check_loss_is_one_number"},
    ),
    "detached": (
        lambda logits, targets: cross_entropy(logits.detach(), targets),
        {"check_gradient_reaches_the_logits"},
    ),
    "a sum": (
        lambda logits, targets: cross_entropy(logits, targets, reduction="sum"),
        {"check_loss_is_a_mean"},
    ),
    "drawn": (
        lambda logits, targets: cross_entropy(logits + torch.randn(logits.shape[1]), targets),
        {"check_loss_is_a_mean", "check_loss_keeps_nothing"},
    ),
    "drifts": (Drifting(), {"check_loss_is_a_mean", "check_loss_keeps_nothing"}),
}


@pytest.mark.parametrize("loss", [smooth, indices_only])
def test_a_sound_loss_passes_every_check(loss):
    results = check_loss(declared(loss))
    assert tuple(r.check for r in results) == check_names("loss")
    assert {(r.kind, r.name, r.status) for r in results} == {("loss", "own", "passed")}


@pytest.mark.parametrize("fault", LOSSES)
def test_a_fault_of_a_loss_is_caught(fault):
    loss, checks = LOSSES[fault]
    assert set(failed(check_loss(declared(loss)))) == checks


class Brightness:
    """A transform as it should be."""

    def __call__(self, pixels):
        return (pixels * torch.rand(())).to(torch.uint8)


class Floats:
    def __call__(self, pixels):
        return pixels / 255


class Cropped:
    def __call__(self, pixels):
        return pixels[:, 1:]


class Square:
    """It takes square images only."""

    def __call__(self, pixels):
        return pixels.transpose(1, 2)


class Numpys:
    def __call__(self, pixels):
        import numpy as np

        return (pixels * np.random.random()).to(torch.uint8)


class Pythons:
    def __call__(self, pixels):
        import random

        return pixels.flip(2) if random.random() < 0.5 else pixels


class Forgetful:
    """It counts, and is pickled without its count."""

    def __init__(self):
        self.step = 1

    def __getstate__(self):
        return {}

    def __call__(self, pixels):
        return pixels + getattr(self, "step", 0)


SENT = "check_transform_can_be_sent_to_processes"

#: Fault -> (the transform, the check that catches it).
TRANSFORMS = {
    "no function": (3, "check_transform_is_made"),
    "floats": (Floats(), "check_pixels_keep_size_and_type"),
    "cropped": (Cropped(), "check_pixels_keep_size_and_type"),
    "turned": (Square(), "check_pixels_keep_size_and_type"),
    "NumPy's generator": (Numpys(), "check_one_seed_gives_one_view"),
    "Python's generator": (Pythons(), "check_one_seed_gives_one_view"),
    "a lambda": (lambda pixels: pixels, SENT),
    "pickled in part": (Forgetful(), SENT),
}


def test_a_sound_transform_passes_every_check():
    results = check_transform(declared(Brightness()))
    assert tuple(r.check for r in results) == check_names("transform")
    assert {(r.kind, r.name, r.status) for r in results} == {("transform", "own", "passed")}


@pytest.mark.parametrize("fault", TRANSFORMS)
def test_a_fault_of_a_transform_is_caught(fault):
    transform, check = TRANSFORMS[fault]
    assert failed(check_transform(declared(transform))) == [check]


def test_every_check_is_proven_by_a_fault():
    assert {name for _, names in LOSSES.values() for name in names} == set(check_names("loss"))
    assert {name for _, name in TRANSFORMS.values()} == set(check_names("transform"))


def test_one_whose_library_is_not_installed_is_skipped():
    def make():
        import a_library_of_losses  # noqa: F401

    missing = dataclasses.replace(declared(smooth), make=make)
    for results in (check_loss(missing), check_transform(missing)):
        assert {r.status for r in results} == {"skipped"}
        assert "a_library_of_losses" in results[0].message


@pytest.mark.parametrize(
    "wrong", [{"name": "two words"}, {"name": ""}, {"summary": ""}, {"summary": "one\ntwo"}]
)
def test_a_declaration_without_name_or_summary_is_refused(wrong):
    with pytest.raises(PluginError):
        dataclasses.replace(declared(smooth), **wrong)
