"""Mixup, CutMix and the moving average of the weights."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

import zoo
from tests.pipeline.conftest import start
from zoo.events import EpochEnd, Note, StepEnd
from zoo.recipe import Recipe
from zoo.runs.checkpoint_file import read_checkpoint
from zoo.tasks import MULTI_LABEL, SINGLE_LABEL
from zoo.training.batch_transform import batch_transform
from zoo.weights import read_state_dict

#: Images of one value each, by class, and their labels.
LABELS = torch.tensor([0, 1, 2, 2, 1, 0, 1, 2])
IMAGES = (LABELS * 100).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()


@pytest.mark.parametrize("fields", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
@pytest.mark.parametrize("targets", [LABELS, torch.eye(3)[LABELS]], ids=["labels", "indicators"])
def test_targets_are_mixed_in_the_shares_of_the_images(fields, targets):
    transform = batch_transform(Recipe(**fields), 3)
    assert transform is not None
    for seed in range(20):
        images, mixed = transform(IMAGES, targets, seed)
        torch.testing.assert_close(mixed.sum(dim=1), torch.ones(len(LABELS)))
        shown = images.mean(dim=(1, 2, 3)) / 100
        torch.testing.assert_close(shown, mixed @ torch.arange(3.0), atol=1e-4, rtol=0)
        again, _ = transform(IMAGES, targets, seed)
        assert torch.equal(images, again)
    assert torch.equal(IMAGES[:, 0, 0, 0], LABELS * 100)


def test_nothing_is_mixed_by_default():
    assert batch_transform(Recipe(), 3) is None


@pytest.mark.parametrize("task", [SINGLE_LABEL, MULTI_LABEL], ids=lambda task: task.name)
def test_a_mixed_batch_in_parts_has_the_loss_of_the_whole(task):
    drawn = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(8, 3, generator=drawn), torch.tensor([0.2, 1.0, 5.0])
    targets = torch.rand(8, 3, generator=drawn).softmax(dim=1)
    whole = task.loss(logits, targets, weights)
    shares = task.weights(targets, weights)
    parts = [
        task.loss(logits[part], targets[part], weights) * shares[part].sum() / shares.sum()
        for part in (slice(0, 3), slice(3, 8))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.medium
def test_mixing_changes_training_but_not_validation(photos):
    losses = {}
    for name, fields in {"plain": {}, "mixed": {"mixup": 1.0}}.items():
        events = []
        zoo.finetune(photos, out=name, listen=events.append, **start(train="finetune", **fields))
        losses[name] = [e.loss for e in events if isinstance(e, StepEnd)]
    assert losses["plain"][0] != losses["mixed"][0]
    evaluation = zoo.load("mixed").evaluate()
    assert evaluation.accuracy == zoo.load("mixed").info.val_accuracy


def test_mixed_images_go_through_a_frozen_backbone_each_time(photos):
    notes = []
    fields = start(train="finetune", freeze="backbone", mixup=0.5)
    zoo.finetune(photos, out="run", listen=notes.append, **fields)
    said = [event.text for event in notes if isinstance(event, Note)]
    assert any("not cached" in text and "mixed" in text for text in said)


@pytest.mark.slow
def test_the_average_of_the_weights_is_validated_and_kept(photos):
    decay, kept, at_end = 0.5, [], {}

    def listen(event: object) -> None:
        if isinstance(event, StepEnd | EpochEnd):
            tensors = read_checkpoint(Path("run")).tensors
            state = {
                prefix: {
                    name.removeprefix(f"{prefix}/"): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(f"{prefix}/")
                }
                for prefix in ("model", "average")
            }
            if isinstance(event, EpochEnd):
                at_end[event.epoch] = state["average"]
            else:
                kept.append(state)

    fields = start(train="finetune", epochs=2, ema_decay=decay, checkpoint_every=1)
    run = zoo.finetune(photos, out="run", listen=listen, **fields)
    assert len(kept) > 4
    for step, (before, after) in enumerate(pairwise(kept), start=2):
        share = 1 - min(decay, (1 + step) / (10 + step))
        for name, tensor in after["model"].items():
            expected = tensor
            if tensor.is_floating_point():
                expected = torch.lerp(before["average"][name], tensor, share)
            torch.testing.assert_close(after["average"][name], expected)
    best = read_state_dict(run.path / "model.safetensors")
    assert all(torch.equal(best[name], t) for name, t in at_end[run.info.epoch].items())
    assert any(not torch.equal(best[n], t) for n, t in kept[-1]["model"].items())
    assert run.evaluate().accuracy == run.info.val_accuracy
