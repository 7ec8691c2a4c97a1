"""Runs that learn from a teacher, also on images without labels."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.conftest import QUICK, make_photos, save_photo, zoo_
from tests.pipeline.conftest import hear, rows, start
from tests.pipeline.crash import Crash, check_equal, crash_at, crashed_and_resumed
from tests.pipeline.test_resuming import LAUNCHED, launch
from zoo.data.dataset import ImageDataset
from zoo.data.transforms import eval_transform, to_input
from zoo.errors import DataError, RecipeError, RunError
from zoo.events import EpochEnd, Note, StepEnd
from zoo.recipe import dump_recipe, make_recipe
from zoo.runs.checkpoint_file import read_checkpoint
from zoo.tasks import SINGLE_LABEL, Distillation
from zoo.training.teacher import Teacher

#: Of a student without a probe, which learns from the first step on.
STUDENT = {"train": "finetune", "hflip": False, "crop_scale": 0.5, "warmup_epochs": 0.0}


@pytest.fixture(scope="module")
def teacher(split_photos, tmp_path_factory):
    """A probe on random features, which tells the colours apart. Not to be changed."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    return zoo.finetune(split_photos, out=out, **QUICK, train="probe", views=0)


def texts(events):
    return [event.text for event in events if isinstance(event, Note)]


def teacher_of(model, preprocess, columns=(0, 1, 2)):
    criterion = Distillation(task=SINGLE_LABEL, num_classes=3, weight=0.5, temperature=2.0)
    return Teacher(
        model=model,
        preprocess=preprocess,
        columns=torch.tensor(columns),
        criterion=criterion,
        sha256="",
        about={},
    )


def test_the_teacher_sees_the_students_pixels_as_its_own_preprocessing_has_them():
    student, seen = zoo.Preprocess(size=48), []
    preprocess = zoo.Preprocess(size=64, mean=(0.1, 0.5, 0.9), std=(0.5, 0.25, 1.0))

    def model(images):
        seen.append(images)
        return torch.arange(6.0).view(2, 3)

    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    pixels = ImageDataset.stack([eval_transform(student).prepare(Image.fromarray(noise))] * 2)
    teacher = teacher_of(model, preprocess, columns=(2, 0, 1))
    logits = teacher.logits(pixels)
    assert logits.tolist() == [[2.0, 0.0, 1.0], [5.0, 3.0, 4.0]]
    (images,) = seen
    assert images.shape == (2, 3, 64, 64)
    means = images.mean(dim=(0, 2, 3)) * torch.tensor(preprocess.std)
    means += torch.tensor(preprocess.mean)
    shown = pixels.to(torch.float32).mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(means, shown, atol=0.01, rtol=0)
    # At the student's own size, nothing but the normalisation is left.
    same = dataclasses.replace(preprocess, size=48)
    mixed = pixels.to(torch.float32)
    teacher_of(model, same).logits(mixed)
    assert torch.equal(seen[1], to_input(pixels, same, torch.device("cpu")))
    assert torch.equal(mixed, pixels.to(torch.float32))


@pytest.mark.medium
@pytest.mark.parametrize("train", ["finetune", "probe+finetune"])
def test_a_range_test_learns_from_unlabelled_images_too(teacher, split_photos, tmp_path, train):
    loose = make_photos(tmp_path / "loose", 4, first_seed=300)
    fields = {**QUICK, **STUDENT, "train": train, "teacher": teacher.path, "unlabelled": loose}
    found = zoo.lr_find(split_photos, steps=25, **fields)
    assert len(found.losses) == 25
    assert (
        found.losses != zoo.lr_find(split_photos, steps=25, **{**fields, "unlabelled": None}).losses
    )


@pytest.mark.medium
def test_a_search_with_a_teacher_goes_on_from_any_folder(
    teacher, split_photos, tmp_path, monkeypatch
):
    """Its best recipe too."""
    monkeypatch.chdir(tmp_path)
    teacher = shutil.copytree(teacher.path, "teacher")
    loose = make_photos(Path("loose"), 2, first_seed=300)
    fields = {**QUICK, **STUDENT, "epochs": 1, "teacher": str(teacher), "unlabelled": str(loose)}
    zoo.tune(split_photos, out="search", ranges={"lr": [1e-4, 1e-3]}, trials=1, **fields)
    Path("other").mkdir()
    monkeypatch.chdir("other")
    assert len(zoo.tune(resume=True, out="../search", trials=2).trials) == 2
    zoo_("finetune", "--recipe", "../search/best.toml", "--dry-run")


@pytest.mark.medium
def test_a_student_learns_what_the_teacher_says_rather_than_the_labels(
    teacher, split_photos, tmp_path
):
    """Its photos have the labels of others, of which a weight of 1 takes no notice."""
    shifted = tmp_path / "shifted"
    for name, other in {"blue": "green", "green": "red", "red": "blue"}.items():
        shutil.copytree(split_photos / "train" / name, shifted / other)
    fields = {**QUICK, **STUDENT, "epochs": 10, "val_split": 0.0, "lr": 5e-3}
    events = []
    student = zoo.finetune(
        shifted,
        out="student",
        teacher=teacher.path,
        distill_weight=1.0,
        listen=events.append,
        **fields,
    )
    losses = [event.metrics["train_loss"] for event in events if isinstance(event, EpochEnd)]
    assert losses[-1] < 0.5 * losses[0]
    photos = sorted((split_photos / "train").rglob("*.png"))
    taught = [each.label for each in teacher.predict(photos)]
    learnt = [each.label for each in student.predict(photos)]
    same = sum(a == b for a, b in zip(taught, learnt, strict=True)) / len(photos)
    assert same >= 0.75
    assert student.info.teacher["backbone"] == teacher.info.backbone
    checkpoint = read_checkpoint(Path("student"))
    assert student.info.teacher["sha256"] == checkpoint.about["teacher_sha256"]
    assert student.info.teacher["sha256"] in Path("student/README.md").read_text()


@pytest.mark.medium
def test_unlabelled_images_are_learnt_from_but_for_those_of_val_and_test(
    teacher, split_photos, tmp_path
):
    labelled = shutil.copytree(split_photos, tmp_path / "labelled")
    save_photo(labelled / "test" / "red" / "0.png", (200, 40, 40), 99)
    loose = tmp_path / "loose"
    make_photos(loose / "deep", 4, first_seed=300)
    shutil.copy(labelled / "val" / "red" / "0.png", loose / "of-val.png")
    shutil.copy(labelled / "test" / "red" / "0.png", loose / "of-test.png")
    shutil.copy(labelled / "train" / "red" / "0.png", loose / "of-train.png")
    shutil.copy(loose / "deep" / "red" / "0.png", loose / "twice.png")
    (loose / "broken.png").write_bytes(b"no image")
    events = []
    zoo.finetune(
        labelled,
        out="student",
        teacher=teacher.path,
        unlabelled=loose,
        listen=events.append,
        **QUICK,
        **STUDENT,
    )
    # 24 labelled and 12 unlabelled images, in steps of 8.
    assert [event.images for event in events if isinstance(event, StepEnd)] == [8, 8, 8, 8, 4]
    said = next(text for text in texts(events) if "left out of the unlabelled images" in text)
    for part in ("1 image that val has", "1 image that test has", "1 image that train has"):
        assert part in said
    assert "twice" in said
    recipe = make_recipe(Path("student/recipe.toml"))
    assert (recipe.distill_weight, recipe.distill_temperature) == (0.5, 2.0)
    assert (recipe.teacher, recipe.unlabelled) == (str(teacher.path), str(loose))
    only_val = tmp_path / "only-val"
    shutil.copytree(labelled / "val", only_val)
    with pytest.raises(DataError):
        zoo.finetune(labelled, out="none", teacher=teacher.path, unlabelled=only_val, **QUICK)
    assert not Path("none").exists()


@pytest.mark.medium
def test_a_frozen_backbone_is_passed_each_time_as_the_teacher_sees_each_view(teacher, split_photos):
    fields = {**start(train="finetune", freeze="backbone"), "teacher": teacher.path}
    _, notes, _ = hear(split_photos, "run", **fields)
    assert any("not cached" in note and "teacher" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixed, in parts", "probed"])
def test_a_crashed_run_comes_to_the_same_weights(teacher, split_photos, tmp_path, name):
    kinds = {
        "mixed, in parts": {
            "train": "finetune",
            "mixup": 0.4,
            "cutmix": 1.0,
            "batch_size": 4,
            "grad_accumulation": 2,
        },
        "probed": {"ema_decay": 0.9, "distill_weight": 0.8, "distill_temperature": 4.0},
    }
    loose = make_photos(tmp_path / "loose", 3, first_seed=300)
    fields = {
        **start(**{"epochs": 2, **kinds[name]}),
        "data": split_photos,
        "teacher": str(teacher.path),
        "unlabelled": str(loose),
        "checkpoint_every": 1,
    }
    undisturbed = zoo.finetune(out="undisturbed", **fields)
    crashes = [(1, StepEnd), (2, StepEnd), (1, EpochEnd), (2, StepEnd)]
    check_equal(crashed_and_resumed("run", fields, crashes), undisturbed)
    plain = {k: v for k, v in fields.items() if k not in ("teacher", "unlabelled")}
    plain = {k: v for k, v in plain.items() if not k.startswith("distill")}
    assert rows(zoo.finetune(out="plain", **plain))[-1] != rows(undisturbed)[-1]


@pytest.mark.medium
def test_another_teacher_or_other_unlabelled_images_are_refused(teacher, split_photos, tmp_path):
    loose = make_photos(tmp_path / "loose", 2, first_seed=300)
    copy = shutil.copytree(teacher.path, tmp_path / "teacher")
    fields = {
        **start(train="finetune", epochs=2),
        "data": split_photos,
        "teacher": copy,
        "unlabelled": loose,
        "checkpoint_every": 1,
    }
    with pytest.raises(Crash):
        zoo.finetune(out="run", **fields, listen=crash_at(2))
    (loose / "red" / "0.png").unlink()
    with pytest.raises(RunError) as refused:
        zoo.resume("run")
    assert "0.png" in refused.value.text
    save_photo(loose / "red" / "0.png", (200, 40, 40), 2300)
    other = zoo.finetune(split_photos, out="other", **QUICK, seed=1, train="probe", views=0)
    with pytest.raises(RunError) as refused:
        zoo.resume("run", teacher=other.path)
    assert "teacher" in refused.value.text
    # The same one may have moved.
    shutil.move(copy, tmp_path / "moved")
    zoo.resume("run", teacher=tmp_path / "moved")
    assert read_checkpoint(Path("run")).about["complete"]


def test_a_teacher_of_other_classes_or_another_task_is_refused(teacher, split_photos, tmp_path):
    data = shutil.copytree(split_photos, tmp_path / "photos")
    for split in ("train", "val"):
        (data / split / "red").rename(data / split / "pink")
    with pytest.raises(RecipeError) as refused:
        zoo.finetune(data, out="run", teacher=teacher.path, **QUICK)
    assert "pink" in refused.value.text
    assert "red" in refused.value.text
    with pytest.raises(RecipeError) as refused:
        zoo.finetune(split_photos, out="run", teacher=teacher.path, task="multi-label", **QUICK)
    assert "single-label" in refused.value.text
    nowhere = zoo_("finetune", "--data", split_photos, "--teacher", "nowhere", "--dry-run", code=2)
    assert "nowhere" in nowhere.stderr
    assert "Traceback" not in nowhere.output
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"unlabelled": "loose"},
        {"distill_weight": 0.5},
        {"distill_temperature": 2.0},
        {"teacher": "run", "train": "probe"},
        {"teacher": "run", "distill_weight": 0.0},
        {"teacher": "run", "distill_temperature": 0.0},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_settings_that_would_have_no_effect_are_refused(fields):
    with pytest.raises(RecipeError):
        make_recipe(None, **fields)


@pytest.mark.slow
def test_two_processes_that_were_killed_come_to_the_same_weights(teacher, split_photos, tmp_path):
    """With an average of epochs whose batch-norm statistics both processes need."""
    fields = {
        **start(train="finetune", epochs=2, average_epochs=2, batch_norm="train", mixup=0.4),
        "batch_size": 4,
        "checkpoint_every": 1,
        "teacher": str(teacher.path),
        "unlabelled": str(make_photos(tmp_path / "loose", 3, first_seed=300)),
    }
    Path("launched.toml").write_text(dump_recipe(make_recipe(None, data=split_photos, **fields)))
    Path("launched.py").write_text(LAUNCHED)
    whole = launch(2, "whole")
    assert whole.returncode == 0, whole.stderr
    assert launch(2, "killed").returncode != 0
    resumed = launch(2, "resume")
    assert resumed.returncode == 0, resumed.stderr
    check_equal(zoo.load("run"), zoo.load("whole"))
