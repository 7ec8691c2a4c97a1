"""The length of training in steps or images: 24 train images in steps of 8 are 3 steps an epoch."""

import pytest

import zoo
from tests.pipeline.conftest import rows, sha256, start
from zoo.errors import RecipeError
from zoo.events import StepEnd


def trained(data, out, **fields):
    """(the run, its steps)."""
    steps = []

    def listen(event):
        if isinstance(event, StepEnd):
            steps.append(event)

    given = {**start(train="finetune"), **fields}
    if "epochs" not in fields:
        del given["epochs"]
    return zoo.finetune(data, out=out, listen=listen, **given), steps


@pytest.mark.parametrize("length", [{"steps": 7}, {"samples": 50}], ids=["steps", "samples"])
def test_training_ends_after_that_many_steps(split_photos, length):
    run, steps = trained(split_photos, "run", **length)
    assert [(step.epoch, step.step) for step in steps] == [
        *((epoch, step) for epoch in (1, 2) for step in (1, 2, 3)),
        (3, 1),
    ]
    assert {(step.steps, step.total_steps) for step in steps} == {(3, 7)}
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3]
    recipe = run.info.recipe
    assert (recipe.epochs, recipe.warmup_epochs) == (3, 0)
    # The cosine falls to 0 at the end.
    rates = [step.lr_head for step in steps]
    assert rates[-1] == pytest.approx(rates[0] * 0.0495, rel=0.01)
    again = zoo.finetune(recipe="run/recipe.toml", out="again", listen=lambda event: None)
    assert sha256(again) == sha256(run)


def test_whole_epochs_are_the_same_in_steps(split_photos):
    of_epochs, _ = trained(split_photos, "one", epochs=2, warmup_epochs=1.0)
    of_steps, _ = trained(split_photos, "two", steps=6, warmup_epochs=0.0, warmup_steps=3)
    assert sha256(of_epochs) == sha256(of_steps)


def test_fewer_steps_than_an_epoch_are_warmed_up_in_a_part_of_them(split_photos):
    given = {**start(train="finetune"), "steps": 2, "epochs": None, "warmup_epochs": None}
    given = {name: value for name, value in given.items() if value is not None}
    run = zoo.finetune(split_photos, out="run", listen=lambda event: None, **given)
    assert run.info.recipe.epochs == 1
    assert run.info.recipe.warmup_epochs == pytest.approx(2 / 3 / 6)


def test_epochs_are_a_maximum(split_photos):
    _, steps = trained(split_photos, "run", steps=100, epochs=2)
    assert len(steps) == 6


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 7, "samples": 50},
        {"steps": 7, "time": "1m"},
        {"steps": 4, "freeze": 2, "unfreeze_epoch": 3},
    ],
)
def test_lengths_that_contradict_each_other_are_refused(split_photos, fields):
    with pytest.raises(RecipeError):
        trained(split_photos, "run", **fields)
