"""`zoo.lr_find` and `zoo lr-find`: the learning-rate range test."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest

import zoo
from tests.conftest import QUICK, make_photos, zoo_
from zoo.errors import RecipeError
from zoo.events import StepEnd
from zoo.training.lr_range import considered, diverged, smoothed, steepest, valley

#: Settings that leave the rate of each step to `lr`.
CONSTANT = {**QUICK, "schedule": "constant", "warmup_epochs": 0.0, "patience": 0}


def steps_of(events):
    return [each for each in events if isinstance(each, StepEnd)]


@pytest.mark.medium
@pytest.mark.parametrize("train", ["finetune", "probe+finetune"])
def test_its_steps_are_those_of_training_and_val_is_not_used(train, split_photos, tmp_path):
    events = []
    # A probe on batch norms that are not those of training would diverge; without smoothed labels,
    # its loss would be 0.
    fields = {**CONSTANT, "train": train, "batch_norm": "frozen", "label_smoothing": 0.1}
    fields["lr"] = 1e-4
    zoo.finetune(
        split_photos, out=tmp_path / "run", listen=events.append, **{**fields, "epochs": 7}
    )
    expected = [step.loss for step in steps_of(events)][:20]
    data = shutil.copytree(split_photos, tmp_path / "data")
    shutil.rmtree(data / "val")
    make_photos(data / "val", 2, first_seed=900)
    # With a listener, as the loss may be too even for a suggestion, which is a warning.
    found = zoo.lr_find(
        data, min_lr=1e-4, max_lr=1e-4 * (1 + 1e-12), steps=20, listen=events.append, **fields
    )
    assert found.losses == pytest.approx(expected, rel=1e-5)
    assert found.smoothed == pytest.approx(smoothed(expected), rel=1e-5)
    assert found.images == 24
    assert not found.diverged


@pytest.mark.medium
def test_groups_keep_their_ratios_and_nothing_is_written(split_photos):
    events = []
    fields = {**CONSTANT, "train": "finetune", "lr": 0.3, "head_lr_mult": 5.0}
    found = zoo.lr_find(
        split_photos, min_lr=1e-5, max_lr=1e-2, steps=31, listen=events.append, **fields
    )
    assert found.lr == pytest.approx([1e-5 * 10 ** (n / 10) for n in range(31)])
    steps = steps_of(events)
    # The test ends with its last step.
    assert [step.lr_backbone for step in steps] == pytest.approx(found.lr[:-1])
    assert [step.lr_head for step in steps] == pytest.approx([5 * lr for lr in found.lr[:-1]])
    assert [row["lr_head"] for row in found.rows()] == pytest.approx([5 * lr for lr in found.lr])
    assert (found.recipe_lr, found.head_lr_mult) == (0.3, 5.0)
    assert not Path("runs").exists()


@pytest.mark.medium
def test_it_ends_when_the_loss_diverges(split_photos):
    fields = {**CONSTANT, "train": "finetune", "optimizer": "sgd", "clip_grad": 0.0}
    events = []
    found = zoo.lr_find(
        split_photos, min_lr=1e-3, max_lr=1e6, steps=60, listen=events.append, **fields
    )
    assert found.diverged
    assert len(found.lr) == len(found.losses) == len(found.smoothed) < 60
    assert all(map(math.isfinite, found.losses))


@pytest.mark.medium
def test_what_the_first_epoch_freezes_stays_frozen(split_photos):
    events = []
    fields = {**CONSTANT, "train": "finetune", "freeze": "backbone", "unfreeze_epoch": 2}
    zoo.lr_find(split_photos, steps=20, listen=events.append, **{**fields, "epochs": 3})
    assert {step.lr_backbone for step in steps_of(events)} == {0.0}
    assert max(step.epoch for step in steps_of(events)) > 3


@pytest.mark.medium
def test_the_command_prints_plots_and_writes_the_steps(split_photos):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    flags += ["--data", split_photos, "--train", "finetune", "--steps", "20", "--min", "1e-4"]
    done = zoo_("lr-find", *flags, "--max", "0.1", "--out", "a.svg", "--csv", "a.csv")
    assert "--lr" in done.stdout
    with Path("a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "lr", "lr_head", "loss", "smoothed"]
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert float(rows[0]["lr"]) == pytest.approx(1e-4)
    assert float(rows[-1]["lr"]) == pytest.approx(0.1)
    assert "</svg>" in Path("a.svg").read_text()
    printed = zoo_("lr-find", *flags, "--max", "0.1", "--out", "a.png", "--format", "json").stdout
    assert json.loads(printed)["losses"] == [float(row["loss"]) for row in rows]
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(each.name for each in Path().iterdir() if each.is_file()) == [
        "a.csv",
        "a.png",
        "a.svg",
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ("--min", "0.1", "--max", "0.1"),
        ("--steps", "19"),
        ("--out", "a.pdf"),
        ("--out", "none/a.svg"),
        ("--csv", "none/a.csv"),
        ("--train", "finetune", "--freeze", "nowhere"),
    ],
)
def test_what_it_cannot_do_is_refused_before_it_starts(flags, split_photos):
    quick = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    done = zoo_("lr-find", "--data", split_photos, *quick, *flags, code=2)
    assert "Traceback" not in done.output
    assert [each for each in Path().iterdir() if each.is_file()] == []


def test_a_probe_has_no_learning_rate(split_photos):
    with pytest.raises(RecipeError):
        zoo.lr_find(split_photos, listen=[].append, **{**QUICK, "train": "probe"})
    with pytest.raises(RecipeError):
        zoo.lr_find(split_photos, min_lr=1.0, max_lr=0.1, **QUICK)
    with pytest.raises(RecipeError):
        zoo.lr_find(split_photos, steps=5, **QUICK)


def test_the_smoothed_loss_has_no_bias_at_its_start():
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
    first, second = smoothed([1.0, 3.0])
    assert first == pytest.approx(1.0)
    # The weights of the two are 0.98 and 1.
    assert second == pytest.approx((0.98 * 1 + 3) / 1.98)


def test_the_loss_diverges_at_four_times_its_minimum_after_the_first_tenth():
    assert not diverged([0.1, 1.0, 9.0], 100)
    assert diverged([1.0] * 11 + [1000.0], 100)
    assert not diverged([1.0] * 12, 100)


def test_suggestions_leave_out_the_start_and_the_end():
    assert considered([1.0] * 100, 100) == range(10, 95)
    assert considered([1.0] * 60, 100) == range(10, 55)
    assert not considered([1.0] * 20, 100)


def test_valley_is_halfway_down_the_longest_fall():
    # 5, 4, 3, 2, 1, 0: six losses that end at position 7, in three parts from position 1 on.
    assert valley([5, 5, 5, 4, 3, 2, 1, 0, 3, 9]) == 4
    assert valley([1, 2, 3]) is None
    assert valley([]) is None


def test_steepest_is_where_the_loss_falls_fastest_by_the_logarithm_of_the_rate():
    # Per factor of ten: 1, 3 and, over a factor of a hundred, 2.
    assert steepest([1e-5, 1e-4, 1e-3, 1e-1], [9.0, 8.0, 5.0, 1.0]) == 1
    assert steepest([1e-5, 1e-4], [1.0, 2.0]) is None
    assert steepest([], []) is None
