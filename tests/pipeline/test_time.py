"""`time`: as many epochs as fit, by a measurement made before the run starts."""

import pytest
import torch

import zoo
from tests.pipeline.conftest import hear, rows, sha256, start
from zoo.errors import RecipeError
from zoo.events import EpochEnd
from zoo.recipe import make_recipe
from zoo.training.budget import Speed, affordable_epochs, measure_speed


def test_epochs_are_those_that_fit():
    speed = Speed(train=0.01, forward=0.002)
    assert speed.epoch(100, 50) == pytest.approx(1.1)
    assert affordable_epochs(0.5, speed, 100, 50, most=30) == 0
    assert affordable_epochs(6, speed, 100, 50, most=30) == 4
    assert affordable_epochs(600, speed, 100, 50, most=30) == 30
    assert affordable_epochs(-1, speed, 100, 50, most=30) == 0


def test_measuring_changes_neither_model_nor_random_state():
    model = zoo.build("timm/test_efficientnet", 3, weights="none").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    speed = measure_speed(model, (3, 32, 32), 4, torch.device("cpu"))
    assert speed.train > speed.forward > 0
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def with_speed(monkeypatch, **seconds):
    monkeypatch.setattr("zoo.planning.resolver.measure_speed", lambda *args: Speed(**seconds))


@pytest.mark.medium
@pytest.mark.parametrize(
    "train", ["probe+finetune", pytest.param("finetune", marks=pytest.mark.slow)]
)
def test_the_run_has_that_many_epochs_and_records_them(split_photos, monkeypatch, train):
    with_speed(monkeypatch, train=0.4, forward=0.001)
    fields = {**start(train=train), "time": "30s"}
    del fields["epochs"]
    run, notes, _ = hear(split_photos, "run", **fields)
    assert run.info.recipe.epochs in (1, 2)  # 24 images: 9.6 s an epoch
    assert any(note.startswith("time 30s:") for note in notes)
    assert rows(run)[-1]["epoch"] == run.info.recipe.epochs
    again = zoo.finetune(recipe="run/recipe.toml", out="again", listen=lambda event: None)
    assert sha256(again) == sha256(run)


@pytest.mark.medium
def test_a_run_that_is_resumed_after_the_probe_has_the_epochs_that_fit(split_photos, monkeypatch):
    def interrupt(event):
        if isinstance(event, EpochEnd):
            raise KeyboardInterrupt

    with_speed(monkeypatch, train=0.4, forward=0.001)
    fields = {**start(), "time": "30s"}
    del fields["epochs"]
    with pytest.raises(zoo.Stopped):
        zoo.finetune(split_photos, out="run", listen=interrupt, **fields)
    run = zoo.resume("run")
    assert run.info.recipe.epochs in (1, 2)
    assert rows(run)[-1]["epoch"] == run.info.recipe.epochs


@pytest.mark.slow
def test_activations_are_kept_for_the_epochs_that_fit(split_photos, monkeypatch):
    with_speed(monkeypatch, train=1e-4, forward=1e-5)
    fields = {**start(train="finetune", freeze=3), "time": "10m"}
    del fields["epochs"]
    monkeypatch.setattr("zoo.planning.decisions._MOST_EPOCHS", 8)
    run, _, computed = hear(split_photos, "run", **fields)
    assert run.info.recipe.epochs == 8
    assert computed["activations"] == 8 * 24


@pytest.mark.medium
def test_without_time_for_an_epoch_the_probe_is_the_result(split_photos, monkeypatch):
    with_speed(monkeypatch, train=10.0, forward=0.001)
    run, notes, _ = hear(split_photos, "run", **{**start(), "time": "20s"})
    assert run.info.epoch == 0
    assert any("0 epochs" in note for note in notes)


@pytest.mark.slow
def test_epochs_that_are_asked_for_are_the_most(split_photos, monkeypatch):
    with_speed(monkeypatch, train=1e-4, forward=1e-5)
    run, _, _ = hear(split_photos, "run", **{**start(epochs=2), "time": "10m"})
    assert run.info.recipe.epochs == 2


@pytest.mark.slow
def test_training_ends_when_another_epoch_would_be_late(split_photos, monkeypatch):
    """Epochs take longer than was measured: the run ends with what it has, and says so."""
    with_speed(monkeypatch, train=1e-4, forward=1e-5)
    monkeypatch.setattr("zoo.pipeline.phases.seconds_of", lambda value: 0.0)
    run, notes, _ = hear(split_photos, "run", **{**start(epochs=9), "time": "2m"})
    assert any("no time is left for epoch" in note for note in notes)
    assert rows(run)[-1]["epoch"] == 1
    assert all(finding.state == "ok" for finding in zoo.verify("run"))


@pytest.mark.parametrize("value", ["10", "0s", "soon", 10, "-1m"])
def test_what_is_no_time_is_refused(value):
    with pytest.raises(RecipeError, match=f"time = {value!r}"):
        make_recipe(time=value)
