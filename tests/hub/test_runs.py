"""`zoo runs` lists runs with their figures; `zoo runs diff` shows what differs between two."""

import csv
import json
import shutil
from pathlib import Path

import pytest

import zoo
from tests.conftest import QUICK, zoo_
from tests.runs.forging import copy, forge
from zoo.recipe import change, dump_recipe, make_recipe, read_origins
from zoo.runs.checkpoint_file import read_checkpoint, write_checkpoint


def listed(*args: object) -> list[dict]:
    return json.loads(zoo_("runs", *args, "--format", "json").stdout)


@pytest.fixture
def runs(run, tmp_path) -> Path:
    """A folder of four: finished, resumable with and without a model, damaged; and other files."""
    folder = tmp_path / "experiments"
    for name in ("finished", "sub/resumable", "begun", "damaged"):
        shutil.copytree(run.path, folder / name)
    for name in ("sub/resumable", "begun"):
        about = {**read_checkpoint(folder / name).about, "complete": False}
        write_checkpoint(folder / name, {}, about)
    (folder / "begun" / "model.safetensors").unlink()
    content = (folder / "damaged" / "model.safetensors").read_bytes()
    (folder / "damaged" / "model.safetensors").write_bytes(content[:-1])
    (folder / "other").mkdir()
    (folder / "other" / "model.safetensors").write_bytes(b"of another tool")
    (folder / "link").symlink_to(folder / "finished")
    return folder


def test_runs_are_listed_with_state_and_figures(run, runs):
    rows = {row["name"]: row for row in listed(runs)}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "finished": "finished",
        "sub/resumable": "resumable",
        "begun": "resumable",
        "damaged": "damaged",
    }
    row = rows["finished"]
    val = run.info.figures["val"].metrics["accuracy"]
    assert row["figures"] == {"val": {"value": val.value, "low": val.low, "high": val.high}}
    assert (row["backbone"], row["classes"]) == (run.info.backbone, 3)
    assert row["data"] == run.info.recipe.data
    assert row["size"] == sum(f.stat().st_size for f in run.path.rglob("*") if f.is_file())
    assert rows["damaged"]["detail"]
    assert (rows["begun"]["backbone"], rows["begun"]["figures"]) == (run.info.backbone, {})


def test_the_folder_itself_may_be_a_run_and_list_may_be_left_out(run, runs):
    shutil.copytree(run.path, "runs/one")
    assert [row["name"] for row in listed()] == ["one"]
    assert [row["name"] for row in listed("list")] == ["one"]
    assert [row["name"] for row in listed("runs/one")] == ["one"]
    assert "one" in zoo_("runs").stdout
    zoo_("runs", "nowhere", code=2)


def test_runs_are_sorted(run, runs):
    names = [row["name"] for row in listed(runs)]
    assert names == sorted(names)
    sizes = [row["size"] for row in listed(runs, "--sort", "size")]
    assert sizes == sorted(sizes, reverse=True)
    assert [bool(row["figures"]) for row in listed(runs, "--sort", "val")] == [True] * 2 + [
        False
    ] * 2
    dates = [row["date"] for row in listed(runs, "--sort", "date")]
    assert dates == sorted(dates, reverse=True)


def test_the_csv_has_a_row_for_each_run_and_no_formulas(run, runs):
    shutil.move(runs / "finished", runs / "=1+1")
    rows = list(csv.DictReader(zoo_("runs", runs, "--format", "csv").stdout.splitlines()))
    assert len(rows) == 4
    (row,) = [row for row in rows if row["state"] == "finished"]
    assert row["name"] == "'=1+1"
    assert float(row["val"]) == run.info.figures["val"].metrics["accuracy"].value


def test_origins_are_read_back_from_a_recipe(run):
    text = (run.path / "recipe.toml").read_text()
    recipe = make_recipe(run.path / "recipe.toml")
    origins = read_origins(text, recipe)
    assert origins["epochs"] == origins["batch_size"] == "given"
    assert origins["lr"].startswith("decided: ")
    assert "schedule" not in origins


def test_the_number_of_images_of_each_class_is_in_the_model_file(run):
    assert run.info.counts == {"train": (8, 8, 8), "val": (4, 4, 4)}


@pytest.fixture(scope="module")
def pair(run, split_photos, tmp_path_factory) -> tuple[Path, Path]:
    """The run, and one with other settings and another class."""
    folder = tmp_path_factory.mktemp("pair")
    data = Path(shutil.copytree(split_photos, folder / "data"))
    for split in ("train", "val"):
        shutil.move(data / split / "red", data / split / "pink")
    (data / "train" / "blue" / "0.png").unlink()
    other = zoo.finetune(data, out=folder / "other", **{**QUICK, "train": "probe", "lr": 0.1})
    return run.path, other.path


def test_a_diff_names_settings_with_origins_data_and_figures(run, pair):
    found = json.loads(zoo_("runs", "diff", *pair, "--format", "json").stdout)
    config = {each["name"]: each for each in found["config"]}
    assert (config["lr"]["first"], config["lr"]["second"]) == (run.info.recipe.lr, 0.1)
    assert config["lr"]["first_origin"].startswith("decided: ")
    assert config["lr"]["second_origin"] == "given"
    assert config["train"]["second"] == "probe"
    assert "batch_size" not in config
    data = found["data"]
    assert (data["only_first"], data["only_second"]) == (["red"], ["pink"])
    assert data["images"]["train"] == [24, 23]
    assert {"split": "train", "name": "blue", "first": 8, "second": 7} in data["counts"]
    assert {each["split"] for each in data["counts"]} == {"train", "val"}
    assert not found["comparable"]
    (val,) = [r for r in found["results"] if (r["split"], r["metric"]) == ("val", "accuracy")]
    expected = run.info.figures["val"].metrics["accuracy"]
    assert val["first"] == {"value": expected.value, "low": expected.low, "high": expected.high}
    shown = zoo_("runs", "diff", *pair).stdout
    assert "pink" in shown
    assert "zoo compare" not in shown


def test_a_diff_of_runs_on_the_same_images_refers_to_zoo_compare(run, tmp_path):
    other = copy(run, tmp_path)
    assert json.loads(zoo_("runs", "diff", run.path, other, "--format", "json").stdout)[
        "comparable"
    ]
    assert "zoo compare" in zoo_("runs", "diff", run.path, other).stdout
    (other / "predictions.parquet").unlink()
    assert "zoo compare" not in zoo_("runs", "diff", run.path, other).stdout


def test_a_diff_of_other_images_of_the_same_names_says_so(run, tmp_path):
    other = copy(run, tmp_path)
    recipe = change(run.info.recipe, data="/elsewhere/photos")
    forge(other / "model.safetensors", recipe=dump_recipe(recipe))
    found = json.loads(zoo_("runs", "diff", run.path, other, "--format", "json").stdout)
    assert not found["data"]["same_source"]
    shown = zoo_("runs", "diff", run.path, other).stdout
    assert "the same names" in shown
    assert "if they are the same images" in shown


def test_a_diff_reads_runs_without_counts(run, tmp_path):
    """Those of earlier versions."""
    other = copy(run, tmp_path)
    forge(other / "model.safetensors", counts=None)
    found = json.loads(zoo_("runs", "diff", run.path, other, "--format", "json").stdout)
    assert found["data"]["images"] == {"train": [24, None], "val": [12, 12], "test": [0, None]}
    assert found["data"]["counts"] == []
    zoo_("runs", "diff", run.path, tmp_path / "nowhere", code=2)


def test_counts_of_other_classes_are_refused(run, tmp_path):
    other = copy(run, tmp_path)
    forge(other / "model.safetensors", counts=json.dumps({"train": [1, 2]}))
    zoo_("runs", "diff", run.path, other, code=2)
