"""Training that diverges: seen early, begun again with smaller rates, recorded; never "best"."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import zoo
from tests.conftest import uncalibrated, validation
from tests.pipeline.conftest import hear, rows, sha256, start, state
from zoo.errors import DivergenceError
from zoo.events import Note, StepEnd
from zoo.tasks import SINGLE_LABEL
from zoo.training.divergence import diverged_loss, fell_to_chance, window_loss
from zoo.training.state import Seen, TrainingState

#: Far too large for AdamW.
TOO_LARGE = 3.0


@pytest.mark.medium
@pytest.mark.parametrize("lr", [TOO_LARGE, pytest.param(1e30, marks=pytest.mark.slow)])
def test_it_begins_again_with_smaller_rates_and_ends_no_worse_than_the_probe(split_photos, lr):
    probe, _, _ = hear(split_photos, "probe", **start(train="probe"))
    events = []
    fields = start(train="probe+finetune", epochs=3, lr=lr)
    run = zoo.finetune(split_photos, out="run", listen=events.append, **fields)
    restarts = [line for line in run.info.history if "fine-tuning restarts" in line]
    notes = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert [text for text in notes if "fine-tuning restarts" in text][: len(restarts)] == restarts
    assert any("restarts with learning rates multiplied by 0.3" in text for text in notes)
    assert run.info.val_accuracy >= probe.info.val_accuracy
    assert [row["epoch"] for row in rows(run)] == list(range(len(rows(run))))


@pytest.mark.medium
def test_it_is_seen_within_an_epoch(photos):
    """Of 24 images 8 steps of 3 each are the first window."""
    seen = []

    def listen(event):
        if isinstance(event, StepEnd):
            seen.append((event.epoch, event.step))
        if isinstance(event, Note) and "fine-tuning restarts" in event.text:
            raise KeyboardInterrupt

    fields = start(train="probe+finetune", epochs=3, lr=TOO_LARGE, batch_size=2)
    with pytest.raises(zoo.Stopped):
        zoo.finetune(photos, out="run", listen=listen, **fields)
    assert seen[-1][0] == 1


@pytest.mark.slow
def test_asked_to_stop_it_is_an_error_that_keeps_the_probe(split_photos):
    with pytest.raises(DivergenceError, match="run: the probe"):
        hear(split_photos, "run", **start(lr=TOO_LARGE, epochs=3, on_nan="stop"))
    assert zoo.load("run").info.epoch == 0


@pytest.mark.slow
def test_interrupted_after_it_began_again_it_comes_to_the_same(photos):
    fields = start(train="probe+finetune", epochs=3, lr=TOO_LARGE, seed=0)
    whole, notes, _ = hear(photos, "whole", **fields)
    assert any("fine-tuning restarts" in note for note in notes)
    begun, count = [], []

    def listen(event):
        begun.append(isinstance(event, Note) and "fine-tuning restarts" in event.text)
        if any(begun) and isinstance(event, StepEnd):
            count.append(event)
            if len(count) == 2:
                raise KeyboardInterrupt

    with pytest.raises(zoo.Stopped):
        zoo.finetune(photos, out="run", listen=listen, **fields)
    resumed = zoo.resume("run", listen=lambda event: None)
    assert sha256(resumed) == sha256(whole)
    assert rows(resumed) == rows(whole)


def test_the_mean_loss_of_a_window_decides():
    state = TrainingState()
    losses = []
    for step in range(1, 25):
        state.epoch_step = step
        loss_sum = step * 4.0 if step < 17 else 64 + (step - 16) * 400.0
        losses.append(window_loss(state, Seen(loss_sum, 0, step * 4)))
    assert [n for n, loss in enumerate(losses, 1) if loss is not None] == [8, 16, 24]
    assert [losses[7], losses[15], losses[23]] == [1.0, 1.0, 100.0]
    assert state.start_loss == 1.0
    of_two = SINGLE_LABEL.baseline((50, 50), 100)
    assert not diverged_loss(2.9, state, of_two)
    assert not diverged_loss(None, state, of_two)
    assert diverged_loss(3.1, state, of_two)
    assert not diverged_loss(
        3.1, state, SINGLE_LABEL.baseline([9] * 10, 90)
    )  # Guessing among 10 has a loss of 2.3.


@pytest.mark.parametrize(
    ("accuracies", "best", "train_loss", "fell"),
    [
        ([0.5], 0.9, 0.8, [True]),  # Guessing between two has a loss of 0.69.
        ([0.54, 0.5], 0.9, 0.3, [False, True]),
        ([0.5, 0.8, 0.5], 0.9, 0.3, [False, False, False]),
        ([0.6], 0.9, 0.8, [False]),
        ([0.5, 0.5], 0.55, 0.8, [False, False]),
    ],
)
def test_accuracy_falls_to_chance_only_from_far_above_it(accuracies, best, train_loss, fell):
    state = TrainingState(best_epoch=0, best_score=best, seen=[10 * train_loss, 0.0, 10.0])
    found = [
        fell_to_chance(each, state, SINGLE_LABEL.baseline((50, 50), 100)) for each in accuracies
    ]
    assert found == fell


@pytest.mark.slow
def test_the_best_of_all_weights_between_the_probe_and_the_last_is_kept(split_photos):
    run, _, _ = hear(split_photos, "run", **start(epochs=2, lr=1e-3))
    off, _, _ = hear(split_photos, "off", **start(epochs=2, lr=1e-3, interpolate=False))
    assert rows(off)[-1]["interpolation"] == 1
    assert rows(run)[-1]["interpolation"] in (0.25, 0.5, 0.75, 1)
    assert rows(run)[-1]["val_loss"] <= rows(off)[-1]["val_loss"]
    assert uncalibrated(run).evaluate().loss == pytest.approx(
        rows(run)[run.info.epoch]["val_loss"], abs=1e-5
    )


@pytest.mark.slow
def test_what_lies_between_is_a_mean_of_both_ends(split_photos, monkeypatch):
    """Halfway: each tensor of the file is the mean of the probe's and of the last epoch's."""
    fields = start(epochs=1, lr=1e-3)
    probe, _, _ = hear(split_photos, "probe", **{**fields, "train": "probe"})
    better = validation(1.0, loss=0.0)
    monkeypatch.setattr("zoo.training.train.best_interpolation", lambda *args: (better, 1.0))
    last, _, _ = hear(split_photos, "last", **fields)
    monkeypatch.setattr("zoo.training.train.best_interpolation", lambda *args: (better, 0.5))
    half, _, _ = hear(split_photos, "half", **fields)
    assert (last.info.epoch, half.info.epoch) == (1, 1)
    ends = state(probe), state(last)
    for name, tensor in state(half).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (ends[0][name] + ends[1][name]) / 2)


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy", "f1", "log-loss"])
@pytest.mark.medium
def test_the_metric_decides_which_epoch_is_best(photos, monkeypatch, metric):
    values = iter(
        [(2.0, 0.9, 0.1, 0.1), (2.0, 0.1, 0.9, 0.1), (2.0, 0.1, 0.1, 0.9), (0.1, 0.1, 0.1, 0.1)]
    )

    def validate(*args):
        loss, accuracy, balanced, f1 = next(values)
        return validation(accuracy, loss=loss, balanced=balanced, f1=f1)

    monkeypatch.setattr("zoo.training.train.validate", validate)
    fields = start(train="finetune", epochs=4, metric=metric)
    run, _, _ = hear(photos, "run", **fields)
    assert run.info.epoch == 1 + ["accuracy", "balanced-accuracy", "f1", "log-loss"].index(metric)


def test_metrics_are_scikit_learns():
    from sklearn.metrics import balanced_accuracy_score, f1_score

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 5, generator=generator)
    labels = torch.randint(4, (60,), generator=generator)  # The fifth has no image.
    logits[:, 2] = -9.0  # The third is never predicted.
    found = SINGLE_LABEL.measure(logits, labels)
    predicted = logits.argmax(dim=1)
    assert found.values["accuracy"] == pytest.approx(float((predicted == labels).double().mean()))
    expected = sum(float((predicted[labels == c] == c).double().mean()) for c in range(4))
    assert found.values["balanced_accuracy"] == pytest.approx(expected / 4)
    some = predicted != 4
    rest = SINGLE_LABEL.measure(logits[some], labels[some]).values
    assert rest["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels[some], predicted[some])
    )
    assert found.values["f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found.never_predicted == (2,)


@pytest.mark.slow
def test_strongly_imbalanced_classes_are_judged_by_balanced_accuracy(photos, tmp_path):
    for photo in photos.rglob("*.png"):
        if photo.parent.name != "red" or int(photo.stem) < 2:
            copy = tmp_path / "few" / photo.relative_to(photos)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(photo.read_bytes())
    run, notes, _ = hear(tmp_path / "few", "run", **start(train="probe"))
    assert run.info.recipe.metric == "balanced-accuracy"
    assert run.info.recipe.class_weights == "balanced"
    assert any("metric = balanced-accuracy" in note for note in notes)
    balanced, _, _ = hear(photos, "balanced", **start(train="probe"))
    assert balanced.info.recipe.metric == "accuracy"
    assert balanced.info.recipe.class_weights == "none"
    asked, _, _ = hear(tmp_path / "few", "asked", **start(train="probe", metric="accuracy"))
    assert asked.info.recipe.class_weights == "none"


@pytest.mark.medium
def test_classes_without_val_images_are_named(split_photos, tmp_path):
    root = tmp_path / "data"
    for photo in split_photos.rglob("*.png"):
        if "val" in photo.parts and photo.parent.name == "red":
            continue
        copy = root / photo.relative_to(split_photos)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(photo.read_bytes())
    _, notes, _ = hear(root, "run", **start(train="probe"))
    assert any("val images" in note and "red" in note for note in notes)


@pytest.mark.slow
def test_what_was_decided_after_the_plan_is_in_the_run(split_photos):
    run, notes, _ = hear(split_photos, "run", **start(epochs=1))
    assert any("hflip = " in note for note in notes)
    assert any("crop_scale = " in note for note in notes)
    with safe_open(Path(run.path, "model.safetensors"), "pt") as file:
        metadata = file.metadata()
    assert "hflip = " in metadata["recipe"]
    assert json.loads(metadata["epoch"]) == run.info.epoch
    again = zoo.finetune(recipe="run/recipe.toml", out="again", listen=lambda event: None)
    assert again.info.recipe.hflip == run.info.recipe.hflip is not None
    assert sha256(again) == sha256(run)


@pytest.mark.medium
def test_epochs_without_progress_end_training_after_a_probe(split_photos):
    fields = start(train="probe+finetune", epochs=6, lr=1e-7, patience=2)
    run, _, _ = hear(split_photos, "run", **fields)
    assert [row["epoch"] for row in rows(run)] == [0, 1, 2, 3]
