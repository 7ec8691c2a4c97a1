import csv
import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import zoo
from tests.conftest import QUICK, TINY
from zoo.engine.events import EpochEnd, Interrupted, Note, StepEnd
from zoo.errors import DataError, RecipeError, RunError, TrainingError, WeightsUnavailableError
from zoo.planning import Plan
from zoo.run.write import tensors_sha256
from zoo.weights import read_state_dict


def hear(data, **fields):
    events = []
    zoo.finetune(data, out=Path("run"), listen=events.append, **{**QUICK, **fields})
    return events


def sha256(run: Path) -> str:
    return tensors_sha256(read_state_dict(run / "model.safetensors"))


def test_the_run_folder_holds_what_it_promises(run, split_photos):
    names = {p.name for p in run.path.iterdir()}
    assert names == {"model.safetensors", "config.json", "recipe.toml", "metrics.csv", "README.md"}
    with safe_open(run.path / "model.safetensors", framework="pt") as file:
        details = file.metadata()
    assert json.loads(details["class_names"]) == ["blue", "green", "red"]
    assert details["backbone"] == TINY
    assert json.loads(details["preprocess"])["size"] == 32
    assert details["sha256"] == sha256(run.path)
    recipe = tomllib.loads((run.path / "recipe.toml").read_text())
    assert recipe["data"] == str(split_photos)
    assert tomllib.loads(details["recipe"]) == recipe
    rows = list(csv.DictReader((run.path / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert max(float(row["val_accuracy"]) for row in rows) == run.info.val_accuracy
    assert f"{run.info.val_accuracy:.2%} of 12" in (run.path / "README.md").read_text()


def test_it_learns(photos):
    """Three colours are told apart within a few epochs from random weights."""
    epochs = [e for e in hear(photos, epochs=6) if isinstance(e, EpochEnd)]
    assert max(e.val_accuracy for e in epochs) == 1.0
    assert epochs[-1].train_loss < epochs[0].train_loss


def test_running_the_runs_recipe_again_gives_the_same_weights(run, tmp_path):
    again = zoo.finetune(recipe=run.path / "recipe.toml", out=tmp_path / "again")
    assert sha256(again.path) == sha256(run.path)


def test_the_seed_decides(split_photos):
    first = zoo.finetune(split_photos, out="a", seed=0, **QUICK)
    second = zoo.finetune(split_photos, out="b", seed=1, **QUICK)
    assert sha256(first.path) != sha256(second.path)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_workers_change_nothing(run, split_photos):
    other = zoo.finetune(split_photos, out="b", **{**QUICK, "epochs": 2, "workers": 2})
    assert sha256(other.path) == sha256(run.path)


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
    tuned = zoo.finetune(photos, out="tuned", **{**QUICK, "weights": str(run.path)})
    after = read_state_dict(tuned.path / "model.safetensors")
    assert torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    assert not torch.equal(after["bn1.weight"], before["bn1.weight"])
    assert tuned.info.recipe.batch_norm == "frozen"


def test_the_best_epoch_is_the_one_kept(photos, monkeypatch):
    """Accuracies as scripted; what is saved is the weights of the best, between equals by loss."""
    script = iter([(0.9, 0.4), (0.6, 0.8), (0.5, 0.8), (0.7, 0.8), (0.4, 0.2)])
    monkeypatch.setattr("zoo.engine.train.validate", lambda model, batches: next(script))
    epochs = [e for e in hear(photos, epochs=5) if isinstance(e, EpochEnd)]
    assert [e.best for e in epochs] == [True, True, True, False, False]
    assert zoo.load("run").info.epoch == 3


def test_patience_ends_training(photos, monkeypatch):
    script = iter([(0.9, 0.4), (0.6, 0.8), (0.5, 0.8), (0.7, 0.7), (0.4, 0.9)])
    monkeypatch.setattr("zoo.engine.train.validate", lambda model, batches: next(script))
    epochs = [e for e in hear(photos, epochs=5, patience=2) if isinstance(e, EpochEnd)]
    assert len(epochs) == 4


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


def test_events_come_in_the_order_in_which_things_happen(photos):
    kinds = [type(e) for e in hear(photos)]
    assert kinds == [*[k for k in kinds if k is Note], Plan, *[StepEnd] * 3, EpochEnd]


def test_every_optimizer_setting_trains(photos):
    for n, fields in enumerate(
        (
            {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"},
            {"optimizer": "adamw", "label_smoothing": 0.1, "class_weights": "balanced"},
            {"augment": "strong", "warmup_epochs": 0.0, "head_init": "library"},
        )
    ):
        made = zoo.finetune(photos, out=f"run{n}", **{**QUICK, **fields})
        assert made.info.recipe.model_dump().items() >= fields.items()


def test_balanced_class_weights_count_rare_classes_more(photos, tmp_path):
    from zoo.finetuning import _class_weights
    from zoo.recipe import Recipe

    weights = _class_weights(Recipe(class_weights="balanced"), [30, 10])
    assert weights.tolist() == [pytest.approx(40 / 60), 2.0]


def test_interrupted_training_keeps_the_best_so_far(photos):
    def listen(event):
        if isinstance(event, StepEnd) and event.epoch == 2:
            raise KeyboardInterrupt
        events.append(event)

    events = []
    kept = zoo.finetune(photos, out="run", listen=listen, **{**QUICK, "epochs": 5})
    assert kept.info.epoch == 1
    assert events[-1] == Interrupted(epoch=1, val_accuracy=kept.info.val_accuracy)
    assert len(Path("run/metrics.csv").read_text().splitlines()) == 2


def test_interrupted_before_the_first_epoch_leaves_nothing(photos):
    def listen(event):
        if isinstance(event, StepEnd):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(photos, out="run", listen=listen, **QUICK)
    assert not Path("run").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_good(photos):
    with pytest.raises(
        TrainingError, match=r"the loss is nan in epoch 1, step \d of 3 .*smaller --lr"
    ):
        zoo.finetune(photos, out="run", **{**QUICK, "lr": 1e30, "warmup_epochs": 0.0})
    assert not Path("run").exists()


def test_default_folders_never_collide(photos):
    names = [zoo.finetune(photos, **QUICK).path.as_posix() for _ in range(2)]
    assert names == ["runs/colours-test_efficientnet", "runs/colours-test_efficientnet-2"]


def test_a_run_is_never_overwritten(run, photos, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "copy")
    for name in ("model.safetensors", "recipe.toml", "metrics.csv"):
        with pytest.raises(RunError, match="holds a run already"):
            zoo.finetune(photos, out=copy, **QUICK)
        (copy / name).unlink()
    with pytest.raises(RunError, match="is not empty"):
        zoo.finetune(photos, out=copy, **QUICK)
    Path("file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        zoo.finetune(photos, out="file", **QUICK)
    with pytest.raises(RunError, match="can't write the run folder"):
        zoo.finetune(photos, out="file/below", **QUICK)


def test_no_space_is_found_before_training(photos, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    events = []
    with pytest.raises(RunError, match="no space for the run folder"):
        zoo.finetune(photos, out="run", listen=events.append, **QUICK)
    assert not any(isinstance(e, StepEnd) for e in events)
    assert not Path("run").exists()


def test_a_model_that_cannot_be_written_is_one_clear_error(photos, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(RunError, match=r"can't write run/.*: No space"):
        zoo.finetune(photos, out="run", **QUICK)
    assert not Path("run").exists()


def test_a_backbone_of_one_size_refuses_another(photos):
    with pytest.raises(
        TrainingError, match="takes 160 x 160 pixels only; leave out --image-size 64"
    ):
        zoo.finetune(photos, **{**QUICK, "backbone": "timm/test_vit", "image_size": 64})


def test_devices_and_precisions_that_are_not_there_are_refused(photos):
    with pytest.raises(TrainingError, match=r"device mps is not available .*there is: .*cpu"):
        zoo.finetune(photos, **{**QUICK, "device": "mps"})
    with pytest.raises(TrainingError, match="precision fp16 needs a GPU"):
        zoo.finetune(photos, **{**QUICK, "precision": "fp16"})


def test_wrong_fields_are_refused_before_anything_else():
    with pytest.raises(RecipeError, match="did you mean 'epochs'"):
        zoo.finetune("nowhere", epoch=3)


def test_unreadable_photos_are_named_counted_and_left_out(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    (root / "red" / "0.png").write_bytes(b"")
    (root / "blue" / "1.png").write_bytes(b"GIF89a")
    warnings = [e.text for e in hear(root) if isinstance(e, Note) and e.warning]
    assert sum("unreadable image" in w for w in warnings[:-1]) == 2
    assert warnings[-1] == "2 unreadable images left out"
    with pytest.raises(DataError, match="unreadable image"):
        zoo.finetune(root, out="strict", strict=True, **QUICK)


def test_own_data_never_falls_back_to_random_weights(photos):
    with pytest.raises(WeightsUnavailableError):
        zoo.finetune(photos, backbone="resnet18")


def test_the_demo_falls_back_to_random_weights_says_so_and_records_it():
    events = []
    fields = {**QUICK, "backbone": "torchvision/squeezenet1_1", "weights": "pretrained"}
    made = zoo.finetune(listen=events.append, **{**fields, "batch_size": 64})
    warning = next(e.text for e in events if isinstance(e, Note) and e.warning)
    assert warning.startswith("RANDOM WEIGHTS: the pretrained weights of torchvision/squeezenet1_1")
    assert made.info.recipe.weights == "none"
    assert made.info.weights_source == "random (pretrained ones could not be had)"
    assert made.info.recipe.batch_norm == "train"
    assert made.info.recipe.hflip is False
    assert "random weights" in (made.path / "README.md").read_text()
    assert made.class_names == tuple("0123456789")
    assert made.evaluate().accuracy == made.info.val_accuracy


def test_bf16_trains_on_a_cpu(photos):
    made = zoo.finetune(photos, out="run", **{**QUICK, "precision": "bf16"})
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
