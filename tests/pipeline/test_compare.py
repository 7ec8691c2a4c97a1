"""Comparing backbones and runs, `backbone = auto`, and the verdict that a run keeps."""

import csv
import io
import json
import os
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo
from tests.conftest import IN_TWO, QUICK, TINY, make_photos, zoo_
from tests.data.servers import web_server
from tests.pipeline.conftest import hear, start
from tests.runs.forging import forge
from zoo import plugins
from zoo.cli.compare import _PRESETS
from zoo.errors import DataError, RecipeError, RunError, WeightsUnavailableError
from zoo.events import EpochEnd, ignore
from zoo.pipeline.compare import PRESETS

#: timm's tiny nets: the weights of two are in the current folder, those of the third nowhere.
NETS = """
import dataclasses
import functools

import zoo


@zoo.hookimpl
def zoo_backbones():
    import timm
    import zoo_timm

    for name in ("test_efficientnet", "test_resnet", "test_vit"):
        cfg = timm.get_pretrained_cfg(name)
        backbone = zoo_timm.declare(name, cfg, build=functools.partial(build, name), weights=None)
        weights = zoo.Weights(path=f"{name}.safetensors", license="Apache-2.0")
        yield dataclasses.replace(backbone, weights=weights, macs=None)


def build(name, num_classes, pretrained):
    import timm
    from safetensors.torch import load_file

    classes = {} if num_classes is None else {"num_classes": num_classes}
    model = timm.create_model(name, **classes)
    if pretrained:
        model.load_state_dict(load_file(f"{name}.safetensors"))
    return model
"""

ONE, OTHER, MISSING = "nets/test_efficientnet", "nets/test_resnet", "nets/test_vit"


@pytest.fixture
def nets(install, monkeypatch):
    """`NETS` and no other plugin, so that few backbones are asked for their weights."""
    others = [name for name in plugins.installed() if name != "nets"]
    install("zoo-nets", "nets", "zoo_nets", NETS)
    monkeypatch.setenv(plugins.DISABLE, ",".join(others))


@pytest.fixture
def here(nets):
    for name in (ONE, OTHER):
        torch.manual_seed(0)
        state = zoo.build(name, 1000, weights="none").state_dict()
        save_file(state, f"{name.partition('/')[2]}.safetensors")


def compared(*args, code=0):
    return zoo_("compare", "--image-size", 32, "--device", "cpu", *args, code=code)


@pytest.mark.medium
def test_backbones_are_ranked_on_the_same_images(here, split_photos):
    args = (ONE, OTHER, MISSING, "--data", split_photos)
    found = json.loads(compared(*args, "--format", "json", "--plot", "plot.svg").stdout)
    assert found["images"] == 36
    assert found["classes"] == 3
    assert found["metric"] == "accuracy"
    first, second, missing = found["backbones"]
    assert found["best"] == first["name"]
    assert {first["name"], second["name"]} == {ONE, OTHER}
    assert missing["name"] == MISSING
    assert MISSING in missing["reason"]
    assert missing["score"] is None
    assert first["p"] is None
    assert 0 <= second["p"] <= 1
    for each in (first, second):
        assert each["reason"] is None
        assert 0 <= each["low"] < each["score"] <= each["high"] <= 1
        assert each["images_per_second"] > 0
        assert each["parameters"] > 100_000
    assert first["score"] >= second["score"]
    assert ET.parse("plot.svg").getroot().tag.endswith("svg")
    plot = Path("plot.svg").read_text()
    assert ONE in plot
    assert "test_vit" not in plot
    # Read from the cache: the same figures but for those that are measured.
    table = csv.DictReader(io.StringIO(compared(*args, "--format", "csv").stdout))
    assert [row["score"] for row in table] == [str(first["score"]), str(second["score"]), ""]


@pytest.mark.medium
def test_a_table_fits_80_columns_and_says_what_is_missing(here, split_photos, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = compared("--here", MISSING, "--data", split_photos)
    assert ONE in found.stdout
    assert "nets/test_vit was not measured" in found.stdout
    assert "Apache-2.0" in found.stdout


def test_without_any_backbone_left_the_exit_code_is_2(nets, split_photos):
    found = compared(MISSING, "--data", split_photos, "--format", "json", code=2)
    assert json.loads(found.stdout)["best"] is None
    for args in (["--here"], ["nothing_of_that_name"], []):
        compared(*args, "--data", split_photos, code=2)
    compared(ONE, code=2)
    compared(ONE, "--data", split_photos, "--split", "val", code=2)


def test_presets_name_backbones():
    assert tuple(PRESETS) == _PRESETS
    for names in PRESETS.values():
        for name in names:
            assert plugins.get(name).weights is not None


@pytest.mark.medium
def test_auto_chooses_among_the_weights_on_this_machine(here, split_photos):
    fields = {**QUICK, "backbone": "auto", "train": "probe"}
    del fields["weights"]
    run, notes, _ = hear(split_photos, "run", **fields)
    assert run.info.backbone in (ONE, OTHER)
    best = zoo.compare(ONE, OTHER, data=split_photos, image_size=32, device="cpu").best
    assert best is not None
    assert any(ONE in note and OTHER in note for note in notes)
    text = Path("run/recipe.toml").read_text()
    assert tomllib.loads(text)["model"]["backbone"] == run.info.backbone
    (line,) = [line for line in text.splitlines() if line.startswith("backbone =")]
    assert "decided" in line
    assert run.info.recipe.backbone == run.info.backbone


#: A run by several processes; the clocks of those after the first say that there is no time left.
AUTO_IN_TWO = """
import os
import sys
import time

import zoo
from zoo.planning import auto

rank = int(os.environ["RANK"])
auto.time = type("Clock", (), {"perf_counter": lambda: time.perf_counter() + 1000 * rank})
run = zoo.finetune(sys.argv[1], out="two", backbone="auto", train="probe", time="5m",
                   image_size=32, device="cpu", listen=print if rank == 0 else None)
with open(f"chosen-{rank}", "w") as file:
    file.write(run.info.backbone)
"""


@pytest.mark.slow
def test_two_processes_choose_the_backbone_of_one(here, split_photos, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    Path("auto.py").write_text(AUTO_IN_TWO)
    done = subprocess.run(
        [*IN_TWO, "auto.py", str(split_photos)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    chosen = zoo.load("two").info
    assert [Path(f"chosen-{rank}").read_text() for rank in (0, 1)] == 2 * [chosen.backbone]
    best = zoo.compare(ONE, OTHER, data=split_photos, image_size=32, device="cpu")
    (why,) = [line for line in Path("two/recipe.toml").read_text().splitlines()
              if line.startswith("backbone =")]  # fmt: skip
    for each in best.candidates:
        assert f"{each.name} {each.score:.1%}" in why
    if best.candidates[0].score > best.candidates[1].score:
        assert chosen.backbone == best.best.name


@pytest.mark.slow
def test_two_processes_end_together_if_no_weights_are_there(
    nets, split_photos, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    Path("auto.py").write_text(AUTO_IN_TWO)
    done = subprocess.run(
        [*IN_TWO, "auto.py", str(split_photos)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stderr.count("WeightsUnavailableError") >= 2
    assert not Path("two").exists()


@pytest.mark.slow
def test_a_resumed_run_keeps_the_chosen_backbone(here, split_photos):
    flags = ["--data", split_photos, "--backbone", "auto", "--image-size", 32, "--epochs", 2,
             "--device", "cpu", "--out", "run", "--resume", "auto"]  # fmt: skip

    def stop(event):
        if isinstance(event, EpochEnd):
            raise KeyboardInterrupt

    fields = {"backbone": "auto", "image_size": 32, "epochs": 2, "device": "cpu"}
    with pytest.raises(zoo.Stopped):
        zoo.finetune(split_photos, out="run", listen=stop, **fields)
    chosen = tomllib.loads(Path("run/recipe.toml").read_text())["model"]["backbone"]
    zoo_("finetune", *flags)
    zoo_("finetune", *flags)  # Complete already.
    resumed = zoo.load("run")
    assert resumed.info.backbone == chosen
    # Of equally accurate backbones, which is the faster may be measured otherwise each time.
    fields["backbone"] = chosen
    whole = zoo.finetune(split_photos, out="whole", listen=ignore, **fields)
    assert resumed.info.transfer == whole.info.transfer is not None


def test_auto_needs_pretrained_weights(nets, split_photos):
    with pytest.raises(RecipeError):
        zoo.finetune(split_photos, out="run", listen=ignore, **{**QUICK, "backbone": "auto"})
    fields = {**QUICK, "backbone": "auto", "weights": "pretrained"}
    with pytest.raises(WeightsUnavailableError):
        zoo.finetune(split_photos, out="run", listen=ignore, **fields)
    assert not Path("run").exists()


@pytest.mark.medium
def test_the_verdict_is_in_the_runs_file_and_card(split_photos):
    run, _, computed = hear(split_photos, "run", **start(train="probe"))
    found = run.info.transfer
    assert found is not None
    assert found.images == 24
    assert found.baseline == pytest.approx(1 / 3)
    assert f"{found.pretrained:.0%}" in Path("run/README.md").read_text()
    assert computed["features of random weights"] == 24
    again, _, computed = hear(split_photos, "again", **start(train="probe"))
    assert again.info.transfer == found
    assert not computed["features of random weights"]


@pytest.mark.medium
def test_without_pretrained_weights_there_is_no_verdict(split_photos):
    run, _, computed = hear(split_photos, "run", **{**QUICK, "train": "probe"})
    assert run.info.transfer is None
    assert computed["features"]
    assert not computed["features of random weights"]


@pytest.mark.medium
def test_the_verdict_completes_the_plan_and_is_in_that_of_a_resumed_run(split_photos):
    events, later = [], []

    def stop(event):
        events.append(event)
        if isinstance(event, EpochEnd):
            raise KeyboardInterrupt

    with pytest.raises(zoo.Stopped):
        zoo.finetune(split_photos, out="run", listen=stop, **start(train="probe+finetune"))
    plan, found = (next(e for e in events if isinstance(e, t)) for t in (zoo.Plan, zoo.Transfer))
    assert plan.transfer is None
    assert events.index(plan) < events.index(found) < len(events) - 1
    run = zoo.resume("run", listen=later.append)
    assert [event.transfer for event in later if isinstance(event, zoo.Plan)] == [found]
    assert not any(isinstance(event, zoo.Transfer) for event in later)
    assert run.info.transfer == found


@pytest.mark.parametrize("change", [{"p": 2.0}, {"images": 0}, {"helps": "yes"}, {"more": 1}])
def test_a_verdict_that_no_run_writes_is_refused(run, tmp_path, change):
    figures = {"pretrained": 0.9, "random": 0.5, "baseline": 0.4, "p": 0.1}
    good = {**figures, "images": 9, "classes": 2, "helps": True}
    file = tmp_path / "model.safetensors"
    file.write_bytes(Path(run.path, file.name).read_bytes())
    forge(file, transfer=json.dumps(good))
    assert zoo.load(file).info.transfer.pretrained == 0.9
    with pytest.raises(RunError):
        zoo.load(forge(file, transfer=json.dumps({**good, **change})))


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two runs on their own halves of the same photos, one of which is hardly trained."""
    folder = tmp_path_factory.mktemp("two")
    data = make_photos(folder / "colours", 10)
    fields = {**QUICK, "listen": ignore}
    first = zoo.finetune(data, out=folder / "first", **{**fields, "epochs": 3, "lr": 3e-3})
    second = zoo.finetune(data, out=folder / "second", **{**fields, "seed": 1, "lr": 1e-9})
    return data, first, second


def test_runs_are_compared_on_the_same_images(two_runs):
    data, first, second = two_runs
    found = zoo.compare(first.path, second.path, data=data, split="all")
    assert found.images == 30
    for score, run in ((found.first, first), (found.second, second)):
        assert score.accuracy == pytest.approx(run.evaluate(data, split="all").accuracy)
        assert score.low < score.accuracy <= score.high
    assert found.first.correct - found.second.correct == found.only_first - found.only_second
    assert 0 < found.p <= 1
    right = [(each.first_correct, each.second_correct) for each in found.differing]
    assert right.count((True, False)) == found.only_first
    assert right.count((False, True)) == found.only_second
    assert right == sorted(right, key=lambda r: (not r[0], not r[1]))
    assert all(each.first != each.second for each in found.differing)
    # Both have learnt from most of them.
    assert len(found.warnings) == 2


def test_a_run_that_learnt_from_the_others_val_images_is_named(two_runs):
    _, first, second = two_runs
    found = zoo.compare(first.path, second.path)
    (warning,) = found.warnings
    assert str(second.path) in warning
    assert not zoo.compare(first.path, first.path).warnings


#: The films of `films`.
FILM = "(film[0-9][a-z]+)_"


def films(data, folder):
    """The photos of `data`, those of a class as frames of two films."""
    for file in sorted(data.rglob("*.png")):
        name = f"film{int(file.stem) % 2}{file.parent.name}_{file.name}"
        place = folder / file.parent.name / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    return folder


def test_backbones_are_compared_by_groups(here, photos, tmp_path):
    args = (ONE, "--data", films(photos, tmp_path / "films"), "--format", "json")
    by_image, by_group = (
        json.loads(compared(*args, *more).stdout)["backbones"][0]
        for more in ([], ["--group-by", FILM])
    )
    # Of each class, one film is held out at a time.
    assert by_group["score"] != by_image["score"] or by_group["low"] != by_image["low"]
    compared(*args, "--group-by", "nothing(x)", code=2)


@pytest.fixture
def addresses(photos):
    """(a table of addresses, the requests of their server)."""
    with web_server() as web:
        web.add(photos)
        with Path("addresses.csv").open("w") as table:
            table.write("path,label\n")
            for file in sorted(photos.rglob("*.png")):
                name = file.relative_to(photos).as_posix()
                table.write(f"{web.address}/{name},{file.parent.name}\n")
        yield "addresses.csv", web.requests


@pytest.mark.medium
def test_addresses_in_a_table_are_read_if_allowed(here, photos, addresses):
    table, requests = addresses
    compared(ONE, "--data", table, code=2)
    assert requests == []
    found = compared(ONE, "--data", table, "--allow-network", "--format", "json")
    local = compared(ONE, "--data", photos, "--format", "json")
    scores = [json.loads(each.stdout)["backbones"][0] for each in (found, local)]
    assert scores[0]["features"] == scores[1]["features"]
    assert json.loads(found.stdout)["images"] == json.loads(local.stdout)["images"]


def test_runs_are_compared_at_addresses_if_allowed(two_runs, addresses):
    _, first, second = two_runs
    table, requests = addresses
    with pytest.raises(DataError):
        zoo.compare(first.path, second.path, data=table, split="all")
    assert requests == []
    found = zoo.compare(first.path, second.path, data=table, split="all", allow_network=True)
    assert found.images == 30


def test_runs_are_compared_by_groups(two_runs, tmp_path):
    data, first, second = two_runs
    asked = {"data": films(data, tmp_path / "films"), "split": "all"}
    plain = zoo.compare(first.path, second.path, **asked)
    grouped = zoo.compare(first.path, second.path, **asked, group_by=FILM)
    assert grouped.first.accuracy == plain.first.accuracy
    assert grouped.second.high - grouped.second.low != plain.second.high - plain.second.low
    # All signs of six groups are the same in one of 32 cases.
    assert grouped.p > 1 / 40
    with pytest.raises(DataError):
        zoo.compare(first.path, second.path, group_by=FILM)


def test_runs_on_the_command_line(two_runs):
    data, first, second = two_runs
    args = ("compare", first.path, Path(second.path, "model.safetensors"), "--data", data)
    found = json.loads(zoo_(*args, "--split", "all", "--format", "json").stdout)
    rows = list(
        csv.DictReader(io.StringIO(zoo_(*args, "--split", "all", "--format", "csv").stdout))
    )
    assert len(rows) == len(found["differing"]) > 0
    assert [row["name"] for row in rows] == [each["name"] for each in found["differing"]]
    table = zoo_(*args, "--split", "all").stdout
    assert sum(each["name"] in table for each in found["differing"]) == min(20, len(rows))
    zoo_(*args[:2], TINY, "--data", data, code=2)
    zoo_(*args, "--here", code=2)


def test_runs_of_other_classes_are_refused(two_runs, run, tmp_path):
    _, first, _ = two_runs
    data = make_photos(tmp_path / "photos", 3)
    (data / "red").rename(data / "scarlet")
    other = zoo.finetune(data, out=tmp_path / "other", listen=ignore, **QUICK)
    with pytest.raises(RunError, match="scarlet"):
        zoo.compare(first.path, other.path)
