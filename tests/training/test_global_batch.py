"""Images per step over all processes: divided, kept, and what they do to the rates."""

import os
import subprocess
from pathlib import Path

import pytest

import zoo
from tests.conftest import IN_TWO, zoo_
from tests.pipeline.conftest import check_same, flags, sha256, start
from zoo.errors import RecipeError, RunError, Stopped
from zoo.events import EpochEnd
from zoo.planning import prepare
from zoo.recipe import make_recipe


def planned(data, **fields):
    """The recipe as a run would have it."""
    asked = start(**{"batch_size": None, "train": "finetune", **fields})
    return prepare(make_recipe(data=str(data), **asked)).plan.recipe


def test_one_batch_size_is_given():
    with pytest.raises(RecipeError):
        make_recipe(batch_size=8, global_batch=8)
    zoo_("finetune", "--batch-size=8", "--global-batch=8", code=2)
    # What is given later replaces it, as of an older run or a recipe file.
    later = make_recipe(make_recipe(batch_size=8), global_batch=32)
    assert (later.batch_size, later.global_batch) == (None, 32)
    later = make_recipe(later, batch_size=4)
    assert (later.batch_size, later.global_batch) == (4, None)


def test_a_global_batch_is_divided_by_processes_and_accumulation():
    recipe = make_recipe(global_batch=64, grad_accumulation=2)
    assert [recipe.batch_images(n) for n in (1, 2, 8)] == [32, 16, 4]
    assert [n * recipe.step_images(n) for n in (1, 2, 8)] == [64, 64, 64]


def test_an_uneven_global_batch_is_refused_with_the_nearest_even_one(split_photos):
    asked = flags({**start(), "batch_size": None, "data": split_photos, "out": "run"})
    result = zoo_(
        "finetune", *asked, "--global-batch=10", "--grad-accumulation=4", "--dry-run", code=2
    )
    assert "global_batch = 10" in result.stderr
    assert "--global-batch 8" in result.stderr


@pytest.mark.parametrize(
    ("images", "optimizer", "factor"),
    [(16, "adamw", 1), (64, "adamw", 1), (256, "adamw", 2), (256, "sgd", 4), (4, "adamw", 0.5)],
)
def test_rates_follow_a_global_batch_beyond_the_usual(split_photos, images, optimizer, factor):
    usual = planned(split_photos, optimizer=optimizer, batch_size=8)
    scaled = planned(split_photos, optimizer=optimizer, global_batch=images)
    assert scaled.lr == pytest.approx(usual.lr * factor)
    assert scaled.batch_size is None
    assert planned(split_photos, optimizer=optimizer, global_batch=images, lr=0.1).lr == 0.1


@pytest.mark.medium
def test_one_process_takes_the_whole_global_batch(split_photos):
    fields = start(train="finetune", epochs=2, lr=1e-3)
    plain = zoo.finetune(split_photos, out="plain", **fields)
    divided = zoo.finetune(
        split_photos, out="run", **{**fields, "batch_size": None, "global_batch": 8}
    )
    assert sha256(divided) == sha256(plain)
    assert "global_batch = 8" in Path("run/recipe.toml").read_text()


@pytest.mark.slow
def test_a_run_goes_on_with_more_processes_if_its_images_per_step_stay(split_photos):
    def stop(event):
        if isinstance(event, EpochEnd):
            raise KeyboardInterrupt

    fields = start(train="finetune", epochs=3, lr=1e-3, batch_size=None, global_batch=8)
    whole = zoo.finetune(split_photos, out="whole", **fields)
    with pytest.raises(Stopped):
        zoo.finetune(split_photos, out="run", listen=stop, **fields)
    done = subprocess.run(
        [*IN_TWO, "-m", "zoo", "finetune", "--resume", "run"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    run = zoo.load("run")
    assert len(run.info.history) == 1
    assert "2 processes, were 1" in run.info.history[0]
    check_same(run, whole, atol=1e-4)
    assert sha256(run) != sha256(whole)  # Otherwise one process may have done all.


@pytest.mark.medium
def test_another_step_is_a_change(split_photos):
    def stop(event):
        if isinstance(event, EpochEnd):
            raise KeyboardInterrupt

    fields = start(train="finetune", epochs=2, lr=1e-3)
    with pytest.raises(Stopped):
        zoo.finetune(split_photos, out="run", listen=stop, **fields)
    with pytest.raises(RunError):
        zoo.resume("run", global_batch=4)
    assert zoo.resume("run", global_batch=8).info.history == ()
