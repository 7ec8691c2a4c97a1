"""`zoo verify` finds whatever is not as it was written."""

import json
import os
import pickle
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

import zoo
from tests.conftest import QUICK, zoo_
from tests.pipeline.crash import Crash, crash_at
from tests.runs.forging import MODEL, copy, forge, forge_checkpoint, put_together, take_apart
from zoo.errors import RunError, WeightsError
from zoo.events import EpochEnd
from zoo.runs.checkpoint_file import read_checkpoint

KEPT = ["checkpoint/data.safetensors", "checkpoint/last.safetensors"]
FILES = [
    MODEL,
    "config.json",
    "recipe.toml",
    "metrics.csv",
    "README.md",
    "predictions.parquet",
    "report.html",
    *KEPT,
]


@pytest.fixture
def folder(run, tmp_path) -> Path:
    return copy(run, tmp_path)


def states(folder: Path) -> dict[str, str]:
    return {f.file: f.state for f in zoo.verify(folder)}


def wrong(folder: Path) -> dict[str, str]:
    return {f.file: f.detail for f in zoo.verify(folder) if f.state == "wrong"}


def test_a_run_as_it_was_written_is_ok(folder):
    assert states(folder) == dict.fromkeys(FILES, "ok")
    assert "3 classes" in zoo.verify(folder)[0].detail


@pytest.mark.parametrize("name", ["zoo/efficientnet_lite0", "torchvision/squeezenet1_1"])
@pytest.mark.medium
def test_runs_of_every_plugin_are_ok(photos, tmp_path, name):
    zoo.finetune(photos, out=tmp_path / "run", **{**QUICK, "backbone": name})
    assert states(tmp_path / "run") == dict.fromkeys(FILES, "ok")


def test_a_model_file_alone_is_checked(folder, tmp_path):
    alone = Path(shutil.copy(folder / MODEL, tmp_path / "alone.safetensors"))
    assert states(alone) == {"alone.safetensors": "ok"}
    with pytest.raises(RunError, match="nowhere"):
        zoo.verify(tmp_path / "nowhere")


@pytest.mark.medium
def test_a_byte_flipped_anywhere_in_the_model_file_is_found(folder):
    """In the header and in tensors; by verify, and by whatever opens the file."""
    file = folder / MODEL
    original = file.read_bytes()
    end = 8 + int.from_bytes(original[:8], "little")
    header, _ = take_apart(file)
    header.pop("__metadata__")
    starts = [end + tensor["data_offsets"][0] for tensor in header.values()]
    draw = random.Random(0)
    places = [*draw.sample(range(end), 80), *draw.sample(starts, 10), len(original) - 1]
    for place in places:
        content = bytearray(original)
        content[place] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        with pytest.raises((RunError, WeightsError)):
            zoo.load(file)
        assert states(file) == {MODEL: "wrong"}, place


def test_damage_in_a_run_to_start_from_is_found(folder):
    content = bytearray((folder / MODEL).read_bytes())
    content[-1] ^= 1
    (folder / MODEL).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{MODEL}.*damaged"):
        zoo.build("timm/test_efficientnet", 5, weights=str(folder))


@pytest.mark.parametrize("form", ["1", "2", "3"])
def test_a_run_of_an_older_format_is_read_and_its_metadata_said_to_be_unchecked(
    folder, photos, form
):
    header, tensors = take_apart(folder / MODEL)
    details = {**header["__metadata__"], "zoo_format": form, "header_sha256": "0" * 64}
    del details["metadata_sha256"]
    if form != "3":
        del details["val_metrics"], details["task"]
        details["val_accuracy"] = "0.5"
    header["__metadata__"] = details
    (folder / MODEL).write_bytes(put_together(header, tensors))
    assert zoo.load(folder).predict(photos / "red" / "0.png")
    assert zoo.verify(folder)[0].state == "unchecked"
    details["zoo_format"] = "4"
    (folder / MODEL).write_bytes(put_together(header, tensors))
    assert "metadata" in wrong(folder)[MODEL]


def test_a_backbone_that_is_not_installed_leaves_the_rest_checked(folder):
    forge(folder / MODEL, backbone="acme/net")
    found = {f.file: f for f in zoo.verify(folder)}
    assert found[MODEL].state == "unchecked"
    assert found["config.json"].state == "unchecked"
    assert found["README.md"].state == "wrong"


def test_weights_of_another_backbone_are_wrong(folder):
    forge(folder / MODEL, backbone="timm/test_resnet")
    assert wrong(folder)[MODEL]


@pytest.mark.parametrize(
    ("name", "old", "new", "detail"),
    [
        ("config.json", '"green"', '"brown"', "label_names"),
        ("config.json", '"num_classes": 3', '"num_classes": 4', "num_classes"),
        ("config.json", "bicubic", "nearest", "pretrained_cfg"),
        ("config.json", "{", "[", "Expecting"),
        ("config.json", "{", '{"auto_map": {"AutoModel": "evil.Net"},', "auto_map"),
        ("recipe.toml", "batch_size = 8", "batch_size = 9", "batch_size"),
        ("recipe.toml", "epochs", "epoch", "'epoch'"),
        ("recipe.toml", "= 8", "= ", "Invalid"),
        ("metrics.csv", "\n1,", "\n1,1", "checkpoint"),
        ("README.md", "timm/test_efficientnet", "timm/test_vit", ""),
    ],
)
def test_a_file_that_says_something_else_than_the_model_is_found(folder, name, old, new, detail):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    assert wrong(folder).keys() == {name}
    assert detail in wrong(folder)[name]


def test_a_model_of_other_metrics_than_its_run_is_found(folder):
    forge(folder / MODEL, val_metrics=json.dumps({"accuracy": 0.987}))
    assert wrong(folder).keys() == {"metrics.csv"}


def test_a_run_without_its_checkpoint_has_unchecked_metrics(folder):
    shutil.rmtree(folder / "checkpoint")
    assert states(folder) == {**dict.fromkeys(FILES[:7], "ok"), "metrics.csv": "unchecked"}


@pytest.mark.parametrize("name", FILES[:5])
def test_a_missing_file_is_found(folder, name):
    (folder / name).unlink()
    assert wrong(folder).keys() == {name}


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_folder_in_a_files_place_is_found(folder, tmp_path, name):
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert str(tmp_path / "elsewhere") in wrong(folder)[name]
    (folder / name).unlink()
    (folder / name).symlink_to(folder / name)
    assert name in wrong(folder)


def test_a_run_that_is_not_complete_is_said_to_be_so_and_is_not_wrong(photos, tmp_path):
    with suppress(Crash):
        zoo.finetune(photos, out=tmp_path / "run", **QUICK, listen=crash_at(1))
    left = tmp_path / "run" / "checkpoint" / ".last.safetensors.0a1b2c3d"
    left.write_bytes(b"half")
    found = {f.file: (f.state, f.detail) for f in zoo.verify(tmp_path / "run")}
    for name in (MODEL, "config.json", "metrics.csv", "README.md"):
        assert found[name][0] == "unchecked"
    assert found[KEPT[1]][0] == "ok"
    assert found[f"checkpoint/{left.name}"][0] == "unchecked"
    zoo_("verify", str(tmp_path / "run"))


def crashed(photos, out, listen, **fields):
    with pytest.raises(Crash):
        zoo.finetune(photos, out=out, **{**QUICK, "train": "finetune", **fields}, listen=listen)
    return Path(out)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training", None),
        ("training", {"epoch": "one"}),
        ("scaler", {"scale": "large"}),
        ("recipe", {"epoch": 3}),
        ("recipe", {"backbone": "timm/test_efficientnet", "epochs": -1}),
        ("rows", [{"epoch": 1}]),
        ("processes", "two"),
        ("more", 1),
    ],
)
def test_a_checkpoint_that_resuming_would_not_understand_is_wrong(run, folder, key, value):
    checkpoint = read_checkpoint(folder)
    given = dict(checkpoint.about)
    if key == "training" and value:
        value = {**given["training"], **value}
    forge_checkpoint(folder / KEPT[1], checkpoint.tensors, {**given, key: value})
    assert wrong(folder).keys() == {KEPT[1]}
    with pytest.raises(RunError, match=f"checkpoint of {folder}"):
        zoo.resume(folder)


def test_notes_of_images_that_resuming_would_not_understand_are_wrong(folder):
    noted = read_checkpoint(folder, KEPT[0].partition("/")[2])
    forge_checkpoint(folder / KEPT[0], {"names": noted.tensors["names"]}, noted.about)
    assert "'keys'" in wrong(folder)[KEPT[0]]


@pytest.mark.slow
def test_metrics_that_a_killed_run_had_not_written_yet_are_not_wrong(photos, tmp_path):
    out, before = tmp_path / "run", []

    def listen(event):
        if isinstance(event, EpochEnd):
            before.append(Path(out, "metrics.csv").read_text())
            if event.best and len(before) > 1:
                raise Crash

    run = crashed(photos, out, listen, epochs=12)
    metrics = run / "metrics.csv"
    # As it lies there when the process is killed just before it.
    metrics.write_text(before[-2])
    assert states(run)["metrics.csv"] == "unchecked"
    zoo.resume(run)
    assert states(run) == dict.fromkeys(FILES, "ok")
    metrics.write_text(before[0])
    assert wrong(run).keys() == {"metrics.csv"}


def test_a_recipe_that_a_resumed_run_was_told_otherwise_is_not_wrong(photos, tmp_path):
    run = crashed(photos, tmp_path / "run", crash_at(1, EpochEnd), epochs=2)
    with pytest.raises(Crash):
        zoo.resume(run, workers=1, listen=crash_at(1))
    assert states(run)["recipe.toml"] == "ok"
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("workers = 1", "workers = 2"))
    assert states(run)["recipe.toml"] == "unchecked"


class Payload:
    def __reduce__(self):
        return (Path("executed").touch, ())


def test_strangers_are_named_and_those_that_could_run_code_are_wrong(folder, tmp_path):
    (folder / "notes.txt").write_text("fine")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "pytorch_model.bin").write_bytes(b"x")
    (folder / "innocent.json").write_bytes(pickle.dumps(Payload()))
    (folder / "modeling.py").write_text("open('executed', 'w')")
    (folder / "run").write_text("#!/bin/sh\ntouch executed\n")
    (folder / "inside").symlink_to("notes.txt")
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    assert {k: v for k, v in states(folder).items() if k not in FILES} == {
        "notes.txt": "unchecked",
        "deep/er/pytorch_model.bin": "wrong",
        "innocent.json": "wrong",
        "modeling.py": "wrong",
        "run": "wrong",
        "inside": "unchecked",
        "out": "wrong",
        "pipe": "wrong",
    }
    assert not Path("executed").exists()


def test_the_command_prints_a_line_a_file_and_exits_with_2_if_one_is_wrong(run, folder):
    fine = zoo_("verify", folder)
    assert [line.split()[:2] for line in fine.stdout.splitlines()] == [["ok", f] for f in FILES]
    (folder / "config.json").write_text("{}")
    failed = zoo_("verify", folder, run.path, "nowhere", "--format", "json", code=2)
    assert failed.stderr.startswith("Error: 2 files ")
    found = {
        r["run"]: {f["file"]: f["state"] for f in r["findings"]} for r in json.loads(failed.stdout)
    }
    assert found[str(folder)] == {**dict.fromkeys(FILES, "ok"), "config.json": "wrong"}
    assert found[str(run.path)] == dict.fromkeys(FILES, "ok")
    assert found["nowhere"] == {"": "wrong"}


def test_a_folder_of_too_many_files_is_said_to_be_one(folder):
    for parent in range(40):
        for name in range(40):
            path = folder / "more" / str(parent) / str(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    found = zoo.verify(folder)
    assert len(found) < 220
    assert found[-1].file == "."
    assert found[-1].state == "wrong"
