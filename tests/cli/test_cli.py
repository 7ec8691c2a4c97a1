"""The command line as a person meets it: what is printed, where, and the exit code."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICK, TINY, zoo_
from zoo.cli.words import flag_of, with_flags
from zoo.recipe import Recipe

FLAGS = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]


def test_help_answers_without_torch_or_any_plugin():
    code = (
        "import sys; from zoo.cli import main; main(['--help'], standalone_mode=False);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'torchvision', 'accelerate')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("finetune", "predict", "evaluate", "backbones", "show"):
        assert command in done.stdout


def test_every_recipe_field_is_a_flag_with_its_default():
    text = " ".join(zoo_("finetune", "--help").stdout.split())
    for name, field in Recipe.model_fields.items():
        assert flag_of(name) in text
        # Lines are broken at hyphens too.
        described = with_flags(" ".join(field.description.split())).split(".")[0]
        assert described.replace("- ", "-") in text.replace("- ", "-")
    assert "[default: efficientnet_lite0]" in text


@pytest.mark.medium
def test_finetune_prints_plan_epochs_and_result(photos):
    result = zoo_("finetune", "--data", photos, "--out", "run", *FLAGS)
    warnings = result.stderr.splitlines()
    assert all("class" in line for line in warnings)
    parts = ["24 train, 6 val", "blue 8+2", "backbone", "head", "learning rate", "cpu, fp32"]
    parts += ["val accuracy", "RANDOM WEIGHTS", "zoo predict run IMAGE_OR_DIR..."]
    for part in (TINY, "random", *parts):
        assert part in result.stdout
    assert "\x1b" not in result.stdout


def test_dry_run_prints_the_plan_and_writes_nothing(photos):
    result = zoo_("finetune", "--data", photos, "--out", "run", "--dry-run", *FLAGS)
    assert "learning rate" in result.stdout
    assert "zoo predict" not in result.stdout
    assert list(Path().iterdir()) == []


def test_flags_override_the_recipe_file(photos):
    Path("r.toml").write_text('head_lr_mult = 7.0\nlr = 0.125\noptimizer = "adamw"\n')
    result = zoo_(
        "finetune", "--recipe", "r.toml", "--lr", "0.5", "--dry-run", "--data", photos, *FLAGS
    )
    assert "3.5" in result.stdout
    assert "adamw" in result.stdout


def test_interrupted_while_it_plans_a_run_leaves_nothing(photos, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.planning.resolver.read_data", interrupt)
    result = zoo_("finetune", "--data", photos, "--out", "run", *FLAGS, code=130)
    assert "--resume" not in result.stderr
    assert not Path("run").exists()


def test_predict_json_is_all_there_is_on_stdout(run, split_photos, tmp_path):
    folder = shutil.copytree(split_photos / "val", tmp_path / "photos")
    (folder / "red" / "bad.jpg").write_bytes(b"x")
    result = zoo_("predict", run.path, folder, "--format", "json", "--top-k", "2")
    predictions = json.loads(result.stdout)
    (unread,) = (p for p in predictions if p["label"] is None)
    assert unread["path"] == str(folder / "red" / "bad.jpg")
    assert "bad.jpg" in unread["error"]
    predictions.remove(unread)
    assert len(predictions) == 12
    assert {"path", "label", "probability", "unsure", "unfamiliar", "top"} < predictions[0].keys()
    assert predictions[0]["top"][0] == {
        "label": predictions[0]["label"],
        "probability": predictions[0]["probability"],
    }
    assert len(predictions[0]["top"]) == 2
    assert "bad.jpg" in result.stderr
    assert "! 1 " in result.stderr


#: A red picture of 64 x 64 pixels, by libheif.
HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAA"
    "AAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABegABAAAAAAAAABgAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1mlwcnAAAAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34"
    "+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqSSmu"
    "bgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAA"
    "QAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAACBtZGF0AAAAFCgBrwQY/Hk46//4bI/I"
    "QFv6pHQ4"
)


@pytest.mark.parametrize("form", ["table", "csv", "json", "jsonl"])
def test_predict_leaves_no_file_out_without_a_word(run, split_photos, tmp_path, form):
    folder = shutil.copytree(split_photos / "val" / "red", tmp_path / "photos")
    for name in ("a.jxl", "b.JXL", "c.nef", "notes.txt", ".hidden"):
        (folder / name).write_bytes(b"x")
    result = zoo_("predict", run.path, folder, "--format", form)
    for counted in ("2 .jxl", "1 .nef", "1 .txt"):
        assert counted in result.stderr
    if form.startswith("json"):
        lines = result.stdout.splitlines()
        told = json.loads(result.stdout) if form == "json" else [json.loads(x) for x in lines]
        assert len(told) == 8
        names = [Path(entry["path"]).name for entry in told if entry["label"] is None]
        assert names == ["a.jxl", "b.JXL", "c.nef", "notes.txt"]
        assert all(entry["error"] for entry in told if entry["label"] is None)
    for image in folder.glob("*.png"):
        image.unlink()
    assert "2 .jxl" in zoo_("predict", run.path, folder, "--format", form, code=2).stderr


@pytest.mark.parametrize("form", ["table", "csv", "json", "jsonl"])
def test_interrupted_predict_keeps_what_is_done(run, split_photos, monkeypatch, form):
    from zoo.runs import inference, read

    read_image = read.read_image
    sixth = sorted((split_photos / "val").rglob("*.png"))[5]

    def interrupt_sixth(path, **kwargs):
        if path == sixth:
            raise KeyboardInterrupt
        return read_image(path, **kwargs)

    monkeypatch.setattr(inference, "BATCH_SIZE", 2)
    monkeypatch.setattr(read, "read_image", interrupt_sixth)
    result = zoo_("predict", run.path, split_photos / "val", "--format", form, code=130)
    assert "4 of 12" in result.stderr
    if form == "json":
        assert len(json.loads(result.stdout)) == 4
    else:
        assert len(result.stdout.splitlines()) == 4 + (form == "csv")


def test_any_command_that_is_interrupted_exits_with_130(run, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.runs.read.load", interrupt)
    assert "! interrupted" in zoo_("evaluate", run.path, code=130).stderr


def test_predict_reads_heic_where_a_reader_is_installed(run, tmp_path):
    pi_heif = pytest.importorskip("pi_heif")
    assert pi_heif  # Registered by zoo itself, in a process that has not imported it.
    photo = tmp_path / "a.HEIC"
    photo.write_bytes(base64.b64decode(HEIC))
    told = json.loads(zoo_("predict", run.path, tmp_path, "--format", "json").stdout)
    assert [(entry["path"], "error" in entry) for entry in told] == [(str(photo), False)]


def test_predict_csv_and_table(run, split_photos):
    image = split_photos / "val" / "red" / "0.png"
    rows = list(
        csv.DictReader(io.StringIO(zoo_("predict", run.path, image, "--format", "csv").stdout))
    )
    assert rows[0]["path"] == str(image)
    assert 0 <= float(rows[0]["probability"]) <= 1
    table = zoo_("predict", run.path / "model.safetensors", image).stdout
    assert table.startswith(f"{image}  {rows[0]['label']} ")


def test_evaluate_table_and_json_say_the_same(run, split_photos):
    table = zoo_("evaluate", run.path, "--data", split_photos).stdout
    result = json.loads(
        zoo_("evaluate", run.path, "--data", split_photos, "--format", "json").stdout
    )
    assert f"accuracy  {result['accuracy']:.2%}" in table
    assert [c["name"] for c in result["classes"]] == ["blue", "green", "red"]
    assert "confusion" in table


def test_backbones_as_table_and_json():
    listed = json.loads(zoo_("backbones", "torchvision/resnet*", "--format", "json").stdout)
    assert [b["name"] for b in listed] == [f"torchvision/resnet{n}" for n in (101, 152, 18, 34, 50)]
    assert listed[2]["head"] == ["fc"]
    assert listed[2]["weights"].endswith("resnet18-f37072fd.pth")
    result = zoo_("backbones", "torchvision/resnet18")
    header, row = (re.split(" {2,}", line) for line in result.stdout.splitlines())
    values = dict(zip(header, map(str.strip, row), strict=True))
    assert (values["params"], values["GMACs"], values["top-1"]) == ("11.7M", "1.81", "69.8")
    assert result.stderr == "1 backbone\n"


def test_snapshot_of_show_has_layers_head_groups_preprocessing_and_weights():
    text = zoo_("show", "torchvision/resnet18").stdout
    for part in (
        "ResNet",
        "BasicBlock",
        "fc: Linear(in_features=512, out_features=1000, bias=True)",
        "backbone 11,176,512 parameters",
        "head 513,000 parameters",
        "resize 256x256 (bilinear, center), crop 224x224",
        "mean 0.485 0.456 0.406",
        "IMAGENET1K_V1",
        "f37072fd",
        "licence        not stated",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["finetune", "--backbone", "resnet81"], "resnet81 resnet18"),
        (["finetune", "--data", "nowhere"], "data nowhere"),
        (["finetune", "--recipe", "nowhere.toml"], "recipe nowhere.toml"),
        (["finetune", "--recipe", "./quick"], "recipe quick"),
        (["finetune", "--recipe", "quik"], "recipe quik article frozen quick"),
        (["finetune", "--weights", "nowhere.pth"], "weights nowhere.pth"),
        (["finetune", "--epochs", "0"], "epochs 0 1"),
        (["finetune", "--optimizer", "sdg"], "--optimizer sdg sgd"),
        (["predict", "nowhere", "a.jpg"], "run nowhere"),
        (["evaluate", "nowhere"], "run nowhere"),
        (["show", "nowhere"], "backbone nowhere"),
        (["predict", "{run}", "x" * 300], "x" * 300),
        (["predict", "x" * 300, "a.jpg"], "run xxx"),
        (["finetune", "--weights", "x" * 300], "weights xxx"),
        (["predict", "{run}", "nowhere.jpg"], "image nowhere.jpg"),
        (["predict", "{run}", "{empty}"], "images {empty}"),
    ],
)
@pytest.mark.medium
def test_bad_input_is_one_clear_message_and_exit_code_2(args, named, run, tmp_path):
    (tmp_path / "empty").mkdir()
    known = {"run": run.path, "empty": tmp_path / "empty"}
    result = zoo_(*(arg.format(**known) for arg in args), code=2)
    for name in named.format(**known).split():
        assert name in result.stderr
    assert "Traceback" not in result.output
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_a_torchvision_backbone_imports_no_timm(photos):
    code = (
        "import sys\n"
        "from zoo.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print('timm' in sys.modules, 'torchvision' in sys.modules)"
    )
    flags = ["--backbone=torchvision/squeezenet1_1", "--weights=none", "--image-size=64"]
    flags += ["--epochs=1", "--train=finetune"]
    command = [sys.executable, "-c", code, "finetune", "--data", str(photos), "--out", "run"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False True"
