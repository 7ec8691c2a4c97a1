import csv
import json
import shutil
import subprocess
import tomllib
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import zoo
from tests.conftest import IN_TWO, QUICK, TINY, uncalibrated, validation
from zoo.errors import (
    DataError,
    NonFiniteError,
    RecipeError,
    RunError,
    TrainingError,
    WeightsUnavailableError,
)
from zoo.events import EpochEnd, Measured, Mistakes, Note, Progress, RunEnd, RunStart, StepEnd
from zoo.pipeline.finetune import execute, warn
from zoo.planning import Plan, prepare
from zoo.recipe import Recipe, make_recipe
from zoo.tasks import SINGLE_LABEL
from zoo.weights import read_state_dict, tensors_sha256


def hear(data, **fields):
    events = []
    zoo.finetune(data, listen=events.append, **{"out": Path("run"), **QUICK, **fields})
    return events


def sha256(run: Path) -> str:
    return tensors_sha256(read_state_dict(run / "model.safetensors"))


def test_the_run_folder_holds_what_it_promises(run, split_photos):
    names = {p.name for p in run.path.iterdir()}
    files = {"model.safetensors", "config.json", "recipe.toml", "metrics.csv", "README.md"}
    assert names == {*files, "predictions.parquet", "report.html", "checkpoint"}
    with safe_open(run.path / "model.safetensors", framework="pt") as file:
        details = file.metadata()
    assert json.loads(details["class_names"]) == ["blue", "green", "red"]
    assert details["backbone"] == TINY
    assert json.loads(details["preprocess"])["size"] == 32
    assert details["sha256"] == sha256(run.path)
    recipe = tomllib.loads((run.path / "recipe.toml").read_text())
    assert recipe["data"]["data"] == str(split_photos)
    assert tomllib.loads(details["recipe"]) == recipe
    rows = list(csv.DictReader((run.path / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert max(float(row["val_accuracy"]) for row in rows) == run.info.val_accuracy
    card = (run.path / "README.md").read_text()
    assert f"accuracy on 12 held-out images | {run.info.val_accuracy:.2%}" in card


@pytest.mark.medium
def test_it_learns(photos):
    """Three colours are told apart within a few epochs from random weights."""
    epochs = [e for e in hear(photos, epochs=6) if isinstance(e, EpochEnd)]
    assert max(e.metrics["val_accuracy"] for e in epochs) == 1.0
    assert epochs[-1].metrics["train_loss"] < epochs[0].metrics["train_loss"]


@pytest.mark.medium
def test_running_the_runs_recipe_again_gives_the_same_weights(run, tmp_path):
    again = zoo.finetune(recipe=run.path / "recipe.toml", out=tmp_path / "again")
    assert sha256(again.path) == sha256(run.path)


@pytest.mark.medium
def test_the_seed_decides(split_photos):
    first = zoo.finetune(split_photos, out="a", seed=0, **QUICK)
    second = zoo.finetune(split_photos, out="b", seed=1, **QUICK)
    assert sha256(first.path) != sha256(second.path)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.medium
def test_workers_change_nothing(run, split_photos):
    other = zoo.finetune(split_photos, out="b", **{**QUICK, "epochs": 2, "workers": 2})
    assert sha256(other.path) == sha256(run.path)


@pytest.mark.medium
def test_a_frozen_backbone_comes_out_as_it_went_in(run, photos):
    """From a run's weights to another task: all but the head is bit-equal afterwards."""
    before = read_state_dict(run.path / "model.safetensors")
    frozen = zoo.finetune(
        photos, out="frozen", **{**QUICK, "weights": str(run.path), "freeze": "backbone"}
    )
    after = read_state_dict(frozen.path / "model.safetensors")
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_frozen_batch_norm_statistics_stand_still_while_weights_train(run, photos):
    before = read_state_dict(run.path / "model.safetensors")
    fields = {**QUICK, "weights": str(run.path), "train": "finetune"}
    tuned = zoo.finetune(photos, out="tuned", **fields)
    after = read_state_dict(tuned.path / "model.safetensors")
    assert torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    assert not torch.equal(after["bn1.weight"], before["bn1.weight"])
    assert tuned.info.recipe.batch_norm == "frozen"


def scripted(monkeypatch, *ends):
    """Validation finds these (loss, accuracy) one after the other."""
    script = iter(ends)

    def validate(*args):
        loss, accuracy = next(script)
        return validation(accuracy, loss=loss, f1=0.5)

    monkeypatch.setattr("zoo.training.train.validate", validate)


@pytest.mark.medium
def test_the_best_epoch_is_the_one_kept(photos, monkeypatch):
    """Accuracies as scripted; what is saved is the weights of the best, between equals by loss."""
    scripted(monkeypatch, (0.9, 0.4), (0.6, 0.8), (0.5, 0.8), (0.7, 0.8), (0.4, 0.5))
    epochs = [e for e in hear(photos, epochs=5) if isinstance(e, EpochEnd)]
    assert [e.best for e in epochs] == [True, True, True, False, False]
    assert zoo.load("run").info.epoch == 3


@pytest.mark.medium
def test_patience_ends_training(photos, monkeypatch):
    scripted(monkeypatch, (0.9, 0.4), (0.6, 0.8), (0.5, 0.8), (0.7, 0.7), (0.4, 0.9))
    epochs = [e for e in hear(photos, epochs=5, patience=2) if isinstance(e, EpochEnd)]
    assert len(epochs) == 4


@pytest.mark.medium
def test_patience_compares_the_epochs_of_fine_tuning_with_each_other(photos, monkeypatch):
    """All are worse than the probe, but the third is better than the first."""
    ends = (0.9, 0.7), (0.9, 0.6), (0.9, 0.8), (0.9, 0.7), (0.9, 0.8), (0.9, 0.9)
    scripted(monkeypatch, *ends)
    both = {"train": "probe+finetune", "interpolate": False}
    epochs = [e for e in hear(photos, epochs=6, patience=2, **both) if isinstance(e, EpochEnd)]
    assert [e.epoch for e in epochs] == [0, 1, 2, 3, 4, 5]
    assert [e.best for e in epochs] == [True, False, False, False, False, False]


def test_the_plan_says_what_will_train(photos):
    plan = next(
        e
        for e in hear(photos, lr=0.01, head_lr_mult=5.0, weight_decay=0.1, freeze="backbone")
        if isinstance(e, Plan)
    )
    backbone, head = plan.groups
    assert (backbone.name, backbone.frozen) == ("backbone", True)
    assert (head.name, head.lr, head.weight_decay, head.frozen) == ("head", 0.05, 0.1, False)
    assert (
        head.parameters == zoo.build(TINY, 3, weights="none").get_classifier().in_features * 3 + 3
    )
    assert plan.class_names == ("blue", "green", "red")
    assert (plan.train_counts, plan.val_counts) == ((8, 8, 8), (2, 2, 2))


@pytest.mark.medium
def test_events_come_in_the_order_in_which_things_happen(photos):
    def kinds(**fields):
        return [type(e) for e in hear(photos, **fields) if not isinstance(e, Note)]

    training = [*[StepEnd] * 3, EpochEnd]
    assert kinds(cache_size=0.0) == [Plan, RunStart, *training, Measured, Mistakes, RunEnd]
    assert kinds(out="caching") == [
        Plan,
        RunStart,
        Progress,
        Progress,
        *training,
        Measured,
        Mistakes,
        RunEnd,
    ]
    assert kinds(out="cached") == [Plan, RunStart, *training, Measured, Mistakes, RunEnd]
    probe = {"train": "probe", "views": None}
    probed = [Plan, RunStart, Progress, Progress, EpochEnd]
    assert kinds(out="probe", **probe) == [*probed, Measured, Mistakes, RunEnd]
    both = kinds(out="both", **{**probe, "train": "probe+finetune"})
    assert both == [*probed, *training, Measured, Mistakes, RunEnd]  # mirrored, cropped


@pytest.mark.medium
def test_steps_tell_their_loss_and_learning_rates(photos):
    events = hear(photos, train="finetune", epochs=2, head_lr_mult=3.0)
    for epoch in (1, 2):
        steps = [e for e in events if isinstance(e, StepEnd) and e.epoch == epoch]
        (end,) = [e for e in events if isinstance(e, EpochEnd) and e.epoch == epoch]
        images = sum(step.images for step in steps)
        loss = sum(step.loss * step.images for step in steps) / images
        assert loss == pytest.approx(end.metrics["train_loss"])
        assert (steps[-1].lr_backbone, steps[-1].lr_head) == (end.lr_backbone, end.lr_head)
        assert all(step.lr_head == pytest.approx(3 * step.lr_backbone) for step in steps)


@pytest.mark.medium
def test_every_optimizer_setting_trains(photos):
    for n, fields in enumerate(
        (
            {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"},
            {"optimizer": "adamw", "label_smoothing": 0.1, "class_weights": "balanced"},
            {"augment": "strong", "warmup_epochs": 0.0, "head_init": "library"},
            {"optimizer": "nadamw", "schedule": "exponential", "schedule_power": 1.0, "lr": 1e-3},
        )
    ):
        made = zoo.finetune(photos, out=f"run{n}", **{**QUICK, **fields})
        assert made.info.recipe.model_dump().items() >= fields.items()


@pytest.mark.medium
def test_accumulated_gradients_are_those_of_a_larger_batch(photos):
    fields = {"train": "finetune", "augment": "none", "batch_norm": "frozen", "epochs": 2}
    added = hear(photos, out="added", **fields, batch_size=2, grad_accumulation=4)
    whole = hear(photos, out="whole", **fields, batch_size=8)
    (plan,) = [e for e in added if isinstance(e, Plan)]
    assert plan.micro_batch == 2
    steps = [[e for e in events if isinstance(e, StepEnd)] for events in (added, whole)]
    assert [e.images for e in steps[0]] == [e.images for e in steps[1]] == [8] * 6
    for one, other in zip(*steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)
        assert one.lr_head == other.lr_head


def test_balanced_class_weights_count_rare_classes_more():
    weights = SINGLE_LABEL.class_weights([30, 10], 40)
    assert weights.tolist() == [pytest.approx(40 / 60), 2.0]


def test_interrupted_training_keeps_the_best_so_far(photos):
    def listen(event):
        if isinstance(event, StepEnd) and event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(zoo.Stopped, match=r"run: epoch 1"):
        zoo.finetune(photos, out="run", listen=listen, **{**QUICK, "epochs": 5})
    assert zoo.load("run").info.epoch == 1
    assert len(Path("run/metrics.csv").read_text().splitlines()) == 2


def test_interrupted_before_the_first_epoch_it_can_be_gone_on_with(photos):
    def listen(event):
        if isinstance(event, StepEnd):
            raise KeyboardInterrupt

    with pytest.raises(zoo.Stopped, match=r"^[^\n]*zoo finetune --resume run$"):
        zoo.finetune(photos, out="run", listen=listen, **QUICK)
    assert zoo.resume("run").info.epoch == 1


@pytest.mark.parametrize(("batch_size", "what"), [(8, "loss"), (64, "val loss")])
def test_a_loss_that_is_not_finite_stops(photos, batch_size, what):
    fields = {**QUICK, "lr": 1e30, "warmup_epochs": 0.0, "batch_size": batch_size}
    fields["on_nan"] = "stop"
    with pytest.raises(NonFiniteError, match=rf"the {what} .*nan") as error:
        zoo.finetune(photos, out="run", **fields)
    for name in ("`lr`", "`head_lr_mult`", "`on_nan=rewind`"):
        assert name in error.value.hint
    assert not Path("run").exists()


def test_training_that_fails_later_keeps_what_was_good(photos, monkeypatch):
    scripted(monkeypatch, (0.9, 0.4), (float("nan"), 0.4))
    with pytest.raises(TrainingError, match=r"run: epoch 1, .*40\.00%"):
        zoo.finetune(photos, out="run", **{**QUICK, "epochs": 3, "on_nan": "stop"})
    assert zoo.load("run").info.epoch == 1


@pytest.mark.medium
def test_default_folders_never_collide(photos):
    names = [zoo.finetune(photos, **QUICK).path.as_posix() for _ in range(2)]
    assert names == ["runs/colours-test_efficientnet", "runs/colours-test_efficientnet-2"]


def test_what_is_said_to_be_kept_is_what_the_file_holds(photos, monkeypatch):
    """The second, better epoch can't be written: the first is what remains, and what is named."""
    scripted(monkeypatch, (0.9, 0.4), (0.5, 0.8))

    def listen(event):
        if isinstance(event, EpochEnd):
            monkeypatch.setattr(
                "os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space"))
            )

    with pytest.raises(RunError, match=r"No space\n.* run: epoch 1"):
        zoo.finetune(photos, out="run", listen=listen, **{**QUICK, "epochs": 2})
    assert zoo.load("run").info.epoch == 1


@pytest.mark.parametrize("out", [None, "run"])
@pytest.mark.medium
def test_runs_that_start_together_never_share_a_folder(photos, out):
    """Both are planned before either opens its folder."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recipes = [make_recipe(data=photos, seed=seed, **QUICK) for seed in (0, 1)]
        first, second = (prepare(recipe, out=out) for recipe in recipes)
        assert first.plan.out == second.plan.out
        kept = execute(first)
        if out is None:
            other = execute(second, warn)
            assert other.path.name == kept.path.name + "-2"
            assert any(kept.path.name in str(each.message) for each in caught)
        else:
            with pytest.raises(RunError, match="`out=run`"):
                execute(second)
    assert zoo.load(kept.path).info.recipe.seed == 0


def test_a_run_is_never_overwritten(run, photos, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "copy")
    with pytest.raises(RunError, match=r"zoo finetune --resume"):
        zoo.finetune(photos, out=copy, **QUICK)
    shutil.rmtree(copy / "checkpoint")
    for name in ("model.safetensors", "recipe.toml", "metrics.csv"):
        with pytest.raises(RunError, match=str(copy)):
            zoo.finetune(photos, out=copy, **QUICK)
        (copy / name).unlink()
    with pytest.raises(RunError, match=str(copy)):
        zoo.finetune(photos, out=copy, **QUICK)
    Path("file").write_text("x")
    with pytest.raises(RunError, match="`out=file`"):
        zoo.finetune(photos, out="file", **QUICK)
    with pytest.raises(RunError, match="file/below"):
        zoo.finetune(photos, out="file/below", **QUICK)


def test_no_space_is_found_before_training(photos, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    events = []
    with pytest.raises(RunError, match=r"space .* run"):
        zoo.finetune(photos, out="run", listen=events.append, **QUICK)
    assert not any(isinstance(e, StepEnd) for e in events)
    assert not Path("run").exists()


def test_a_model_that_cannot_be_written_is_one_clear_error(photos, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(RunError, match=r"run/.*: No space"):
        zoo.finetune(photos, out="run", **QUICK)
    assert not Path("run").exists()


def test_devices_and_precisions_that_are_not_there_are_refused(photos):
    with pytest.raises(TrainingError, match=r"mps .*cpu"):
        zoo.finetune(photos, **{**QUICK, "device": "mps"})
    with pytest.raises(TrainingError, match="fp16"):
        zoo.finetune(photos, **{**QUICK, "precision": "fp16"})


def test_wrong_fields_are_refused_before_anything_else():
    with pytest.raises(RecipeError, match="'epochs'"):
        zoo.finetune("nowhere", epoch=3)


def test_unreadable_photos_are_named_counted_and_left_out(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    (root / "red" / "0.png").write_bytes(b"")
    (root / "blue" / "1.png").write_bytes(b"GIF89a")
    warnings = [e.text for e in hear(root) if isinstance(e, Note) and e.warning]
    warnings = [w for w in warnings if "unreadable image" in w]
    assert len(warnings) == 3
    assert warnings[-1] == "2 unreadable images left out"
    with pytest.raises(DataError, match=r"(0|1)\.png"):
        zoo.finetune(root, out="strict", strict=True, **QUICK)


def test_own_data_never_falls_back_to_random_weights(photos):
    with pytest.raises(WeightsUnavailableError):
        zoo.finetune(photos, backbone="resnet18")


@pytest.mark.slow
def test_the_demo_falls_back_to_random_weights_says_so_and_records_it():
    events = []
    fields = {**QUICK, "backbone": "torchvision/squeezenet1_1", "weights": "pretrained"}
    made = zoo.finetune(listen=events.append, **{**fields, "batch_size": 64})
    warning = next(e.text for e in events if isinstance(e, Note) and e.warning)
    assert warning.startswith("RANDOM WEIGHTS: the pretrained weights of torchvision/squeezenet1_1")
    assert made.info.recipe.weights == "none"
    assert made.info.weights_source.startswith("random")
    assert made.info.recipe.batch_norm == "train"
    assert made.info.recipe.hflip is False
    assert "random weights" in (made.path / "README.md").read_text()
    assert made.class_names == tuple("0123456789")
    assert made.evaluate().accuracy == made.info.val_accuracy
    assert made.evaluate(split="all").images == 1797


@pytest.mark.filterwarnings("ignore:this CPU has no bfloat16:UserWarning")
@pytest.mark.medium
def test_mixed_precision_trains_but_validates_in_full(photos):
    """What val says is what evaluate says, to the last digit; what trains is another matter.

    But for the temperature, which is fitted on val at the end.
    """
    mixed = zoo.finetune(photos, out="bf16", **{**QUICK, "precision": "bf16"})
    full = zoo.finetune(photos, out="fp32", **QUICK)
    assert sha256(mixed.path) != sha256(full.path)
    for made in (mixed, full):
        rows = list(csv.DictReader((made.path / "metrics.csv").read_text().splitlines()))
        loss = uncalibrated(made).evaluate().loss
        assert loss == pytest.approx(float(rows[0]["val_loss"]), abs=1e-6)


@pytest.mark.slow
def test_settings_reach_the_training(photos):
    """Each setting leads to other weights than the default's."""
    quick = {**QUICK, "warmup_epochs": 0.0, "optimizer": "sgd"}
    plain = sha256(zoo.finetune(photos, out="plain", **quick).path)
    settings = {
        "momentum": 0.5,
        "weight_decay": 0.3,
        "schedule": "constant",
        "warmup_epochs": 1.0,
        "label_smoothing": 0.2,
        "augment": "none",
        "hflip": False,
        "crop_scale": 0.9,
        "clip_grad": 1e-3,
        "head_init": "xavier_uniform",
        "head_lr_mult": 3.0,
        "layer_decay": 0.5,
        "wd_on_norms": True,
        "batch_norm": "frozen",
        "freeze": "backbone",
        "optimizer": "adamw",
    }
    seen = {plain}
    for name, value in settings.items():
        made = zoo.finetune(photos, out=name, **{**quick, name: value})
        assert getattr(made.info.recipe, name) == value
        seen.add(sha256(made.path))
    assert len(seen) == len(settings) + 1


def test_unbalanced_classes_are_weighted(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    for n in range(6):
        (root / "red" / f"{n}.png").unlink()
    weights = [
        sha256(zoo.finetune(root, out=how, **{**QUICK, "class_weights": how}).path)
        for how in ("none", "balanced")
    ]
    assert weights[0] != weights[1]


@pytest.mark.slow
def test_sgd_has_rates_of_its_own(photos):
    made = zoo.finetune(photos, out="run", **{**QUICK, "optimizer": "sgd"})
    assert made.info.recipe.lr == 0.05  # from random weights
    given = {"data": photos, "backbone": "efficientnet_lite0"}
    for optimizer, train, lr, head_lr in (
        ("sgd", "finetune", 1e-3, 1e-2),
        ("sgd", "probe+finetune", 5e-4, 5e-4),
        ("adamw", "finetune", 4e-4, 4e-3),
        ("adamw", "probe+finetune", 4e-4, 4e-4),
    ):
        plan = prepare(make_recipe(train=train, optimizer=optimizer, **given)).plan
        assert [g.lr for g in plan.groups] == [lr, pytest.approx(head_lr)]
        assert plan.recipe.weight_decay == (1e-4 if optimizer == "sgd" else 0.05)


def test_each_value_says_where_it_came_from(photos):
    Path("r.toml").write_text("epochs = 2\nlr = 0.1\n")
    fields = {**QUICK, "optimizer": "sgd"}
    del fields["epochs"]
    run = zoo.finetune(photos, out="run", recipe="r.toml", **fields)
    lines = (run.path / "recipe.toml").read_text().splitlines()
    said = {line.split(" = ")[0]: line.partition("  # ")[2] for line in lines}
    assert said["epochs"] == said["lr"] == "recipe"
    assert said["optimizer"] == said["image_size"] == "given"
    assert said["weight_decay"].startswith("decided: ")
    assert said["task"].startswith("decided: ")
    assert said["momentum"] == ""
    sections = [line[1:-1] for line in lines if line.startswith("[")]
    named = ["data", "model", "training", "optimizer", "distillation", "augmentation", "machine"]
    assert sections == named


@pytest.mark.slow
def test_every_torchvision_family_comes_back_from_its_file(photos, tmp_path):
    """mnasnet asks for versions while loading; densenet and others have buffers and ties."""
    for name in ("mnasnet0_5", "densenet121", "shufflenet_v2_x0_5", "regnet_y_400mf"):
        fields = {**QUICK, "backbone": f"torchvision/{name}"}
        made = zoo.finetune(photos, out=tmp_path / name, **fields)
        assert zoo.load(made.path).info.backbone == f"torchvision/{name}"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("googlenet", 64, marks=pytest.mark.slow),
        pytest.param("inception_v3", 299, marks=pytest.mark.slow),
    ],
)
def test_auxiliary_heads_are_replaced_and_learn(photos, name, size):
    fields = {**QUICK, "backbone": name, "image_size": size, "lr": 0.001, "head_lr_mult": 10.0}
    made = zoo.finetune(photos, out="run", **fields)
    assert made.info.backbone == f"torchvision/{name}"
    state = read_state_dict(Path("run/model.safetensors"))
    for path in made.backbone.head_paths:
        assert state[f"{path}.weight"].shape[0] == 3
        assert state[f"{path}.bias"].abs().max() > 0  # started at 0: its loss reached it
    if name == "googlenet":
        fields["freeze"] = "backbone"
        assert zoo.finetune(photos, out="frozen", **fields).info.recipe.freeze == "backbone"


def test_a_size_that_a_backbone_cannot_take_is_said_before_training(photos):
    with pytest.raises(TrainingError, match=r"squeezenet1_1 .*8 x 8 .*RuntimeError"):
        zoo.finetune(photos, **{**QUICK, "backbone": "squeezenet1_1", "image_size": 8})


@pytest.mark.medium
def test_the_demo_takes_another_size_where_its_own_does_not_fit():
    notes = []
    fields = {k: v for k, v in QUICK.items() if k != "image_size"}
    prepared = prepare(
        make_recipe(**{**fields, "backbone": "timm/halonet26t"}),
        listen=lambda e: notes.append(e.text) if isinstance(e, Note) else None,
    )
    assert prepared.plan.preprocess.size == 256
    assert "timm/halonet26t can't take 64 pixels: 256 x 256 instead" in notes


@pytest.mark.slow
def test_one_image_a_batch_and_learning_statistics_do_not_go_together(photos):
    with pytest.raises(TrainingError, match="batch norm"):
        zoo.finetune(photos, **{**QUICK, "batch_size": 1})
    with pytest.raises(TrainingError, match="batch norm"):
        zoo.finetune(**{**QUICK, "batch_size": 1})
    zoo.finetune(photos, **{**QUICK, "batch_size": 1, "batch_norm": "frozen"})


def test_from_python_a_warning_is_a_warning(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    (root / "red" / "0.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="unreadable"):
        zoo.finetune(root, out="run", **QUICK)


def test_a_recipe_can_be_given_as_an_object(photos):
    made = zoo.finetune(photos, out="run", recipe=Recipe(**QUICK), seed=3)
    assert (made.info.recipe.seed, made.info.recipe.batch_size) == (3, 8)


@pytest.mark.slow
def test_the_demos_recipe_runs_again_to_the_same_weights():
    fields = {**QUICK, "batch_size": 256}
    del fields["image_size"]
    first = zoo.finetune(out="first", **fields)
    again = zoo.finetune(recipe="first/recipe.toml", out="again")
    assert sha256(first.path) == sha256(again.path)


@pytest.mark.slow
def test_two_processes_train_one_model(photos):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]
    command = [*IN_TWO, "-m", "zoo", "finetune", "--data", str(photos), "--out", "run", *flags]
    done = subprocess.run([*command, "--epochs=2"], capture_output=True, text=True, check=True)
    assert done.stdout.count("zoo predict run ") == 1
    assert "2 processes" in done.stdout
    evaluation = zoo.load("run").evaluate()
    assert evaluation.accuracy == zoo.load("run").info.val_accuracy
