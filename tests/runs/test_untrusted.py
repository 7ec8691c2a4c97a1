"""A run folder from a stranger: refused in one line, before anything is built or read for it."""

import json
import math
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import zoo
from tests.runs.forging import MODEL, copy, forge, put_together, take_apart, with_sums
from zoo.errors import RunError, WeightsError


@pytest.fixture
def folder(run, tmp_path) -> Path:
    return copy(run, tmp_path)


def preprocess(**changes: object) -> str:
    own = {
        "size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "fixed_size": False,
    }
    return json.dumps({**own, **changes})


def refused(folder: Path) -> str:
    with pytest.raises((RunError, WeightsError)) as error:
        zoo.load(folder)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1500
    return message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"preprocess": preprocess(size=10**6)}, "1 to 4096"),
        ({"preprocess": preprocess(size=[32, 32, 32])}, "1 to 4096"),
        ({"preprocess": preprocess(size=32.5)}, "1 to 4096"),
        ({"preprocess": preprocess(size=0)}, "1 to 4096"),
        ({"preprocess": preprocess(crop_pct=1e-9)}, "8192"),
        ({"preprocess": preprocess(crop_pct=-1)}, "crop_pct"),
        ({"preprocess": preprocess(mean=[math.nan, 0, 0])}, "NaN"),
        ({"preprocess": preprocess(mean=[1e300, 0, 0])}, "std"),
        ({"preprocess": preprocess(std=[0, 1, 1])}, "std"),
        ({"preprocess": preprocess(std=["1", "1", "1"])}, "std"),
        ({"preprocess": preprocess(mean=[10**400] * 3)}, "beyond 64 bits"),
        ({"preprocess": preprocess(interpolation="exec")}, "interpolation 'exec'"),
        ({"preprocess": "[" * 100_000}, "20 levels"),
        ({"class_names": "[" * 100_000}, "20 levels"),
        ({"class_names": json.dumps(["a"] * 3)}, "class_names"),
        ({"class_names": json.dumps(["a", "b", "c" * 1001])}, "1000 characters"),
        ({"class_names": json.dumps(["a", "b", ""])}, "class_names.2: "),
        ({"class_names": '["a", "b", "\\ud800"]'}, "class_names.2: "),
        ({"class_names": "[]"}, "class_names: "),
        ({"class_names": json.dumps(list(map(str, range(900))))}, "900 classes"),
        ({"class_names": "[9" + "9" * 5000 + "]"}, "5001 digits"),
        ({"epoch": "-1"}, "epoch: "),
        ({"epoch": "1e400"}, "epoch: "),
        ({"val_metrics": '{"accuracy": -1}'}, "val_metrics.accuracy: "),
        ({"val_metrics": '{"accuracy": 1e400}'}, "val_metrics.accuracy: "),
        ({"val_metrics": "[]"}, "val_metrics: "),
        ({"task": "detection"}, "task: "),
        ({"versions": '["zoo"]'}, "versions: "),
        ({"backbone": "x" * 5000}, "1000 characters"),
        ({"recipe": "a" + ".a" * 30_000 + " = 1"}, "200 dots"),
        ({"recipe": "x = " + "[" * 5000 + "]" * 5000}, "20 levels"),
        ({"recipe": "seed = 0x" + "f" * 9000}, "beyond 64 bits"),
        ({"recipe": "a = 1\n" * 20_000}, "65,536 characters"),
        ({"recipe": 'data = "a\\u0000b"'}, "NUL"),
        ({"recipe": "\n".join(f"k{n} = 1" for n in range(4000))}, "'k0'"),
    ],
)
def test_metadata_beyond_all_bounds_is_refused_in_one_line(folder, changes, named):
    forge(folder / MODEL, **changes)
    assert named in refused(folder)


@pytest.mark.medium
def test_a_model_for_a_million_classes_is_not_built(folder, monkeypatch):
    monkeypatch.setattr("zoo.plugins.build", lambda *_: pytest.fail("was built"))
    forge(folder / MODEL, class_names=json.dumps([str(n) for n in range(1_000_000)]))
    assert "1,000,000 classes" in refused(folder)


def test_weights_without_a_head_are_refused_before_a_model_is_built(folder, monkeypatch):
    monkeypatch.setattr("zoo.plugins.build", lambda *_: pytest.fail("was built"))
    forge(folder / MODEL, backbone="timm/test_vit")
    assert "(head)" in refused(folder)


def test_more_weights_than_the_backbone_has_are_not_read(folder, monkeypatch):
    header, tensors = take_apart(folder / MODEL)
    header["zzz"] = {
        "dtype": "U8",
        "shape": [2**36],
        "data_offsets": [len(tensors), len(tensors) + 2**36],
    }
    content = put_together(header, tensors)
    with (folder / MODEL).open("wb") as file:
        file.write(content)
        file.truncate(len(content) + 2**36)  # A hole: 64 GB that take no room on disk.
    monkeypatch.setattr("zoo.runs.read.load_file", lambda *_: pytest.fail("was read"))
    assert f"{2**36:,}"[:3] in refused(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2**30).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}" + b"x",
        (30).to_bytes(8, "little") + b'{"a":{"b":0},"a":{"b":0}}     ',
        (21).to_bytes(8, "little") + b'{"__metadata__":["a"]}'[:21],
        (22).to_bytes(8, "little") + b'{"__metadata__":["a"]}',
    ],
)
def test_a_header_that_is_none_is_refused(folder, content):
    (folder / MODEL).write_bytes(content)
    assert MODEL in refused(folder)


def test_a_header_of_gigabytes_is_not_read(folder):
    with (folder / MODEL).open("wb") as file:
        file.write((2**32).to_bytes(8, "little") + b"{")
        file.truncate(2**33)
    assert "4,294,967,296 bytes" in refused(folder)


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**63], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4]},
        {"dtype": "F32", "shape": 1},
        "text",
    ],
)
def test_a_tensor_without_proper_shape_and_place_is_refused(folder, tensor):
    header, tensors = take_apart(folder / MODEL)
    header["bn1.weight"] = tensor
    (folder / MODEL).write_bytes(put_together(header, tensors))
    assert MODEL in refused(folder)


def test_a_link_out_of_the_folder_is_refused_and_its_target_can_be_given(run, folder, photos):
    (folder / MODEL).unlink()
    (folder / MODEL).symlink_to(run.path / MODEL)
    assert str(run.path / MODEL) in refused(folder)
    with pytest.raises(WeightsError, match=str(run.path / MODEL)):
        zoo.build(run.backbone.name, 3, weights=str(folder))
    assert zoo.load(folder / MODEL).class_names == run.class_names


@pytest.mark.parametrize("make", [lambda p: os.mkfifo(p), lambda p: p.symlink_to(p), Path.mkdir])
def test_what_is_no_file_is_refused_at_once(folder, make):
    (folder / MODEL).unlink()
    make(folder / MODEL)
    assert str(folder) in refused(folder)


def test_scores_that_are_nan_are_no_prediction(folder, photos):
    header, _ = take_apart(folder / MODEL)
    broken = load_file(folder / MODEL)
    broken["classifier.bias"][0] = math.nan
    save_file(broken, folder / "broken", header["__metadata__"])
    (folder / MODEL).write_bytes(put_together(*sealable(folder / "broken")))
    (folder / "broken").unlink()
    run = zoo.load(folder)
    with pytest.raises(RunError, match="NaN"):
        run.predict(photos / "red" / "0.png")
    with pytest.raises(RunError, match="NaN"):
        run.evaluate(photos, split="all")


def sealable(file: Path) -> tuple[dict, bytes]:
    header, tensors = take_apart(file)
    return with_sums(header, tensors), tensors


def test_opening_a_run_writes_nothing_and_runs_no_file_in_it(folder, photos):
    (folder / "sitecustomize.py").write_text("open('executed', 'w')")
    (folder / "timm.py").write_text("open('executed', 'w')")
    files = [p for p in folder.rglob("*") if p.is_file()]
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}
    zoo.load(folder).predict(photos / "red" / "0.png")
    zoo.verify(folder)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files} == before
    assert sorted(p for p in folder.rglob("*") if p.is_file()) == sorted(files)
    assert not Path("executed").exists()


def test_large_inputs_are_computed_fewer_at_a_time():
    from zoo.runs.inference import eval_batch_size

    sizes = {s: eval_batch_size(zoo.Preprocess(size=s)) for s in (32, 224, 512, 1024, 4096)}
    assert sizes == {32: 32, 224: 32, 512: 32, 1024: 8, 4096: 1}


def test_a_recipe_from_a_pipe_in_a_folder_is_refused_and_one_from_a_process_is_read(tmp_path):
    from zoo.errors import RecipeError
    from zoo.recipe import make_recipe

    os.mkfifo(tmp_path / "recipe.toml")
    with pytest.raises(RecipeError, match=r"recipe\.toml"):
        make_recipe(tmp_path / "recipe.toml")
    reading, writing = os.pipe()
    os.write(writing, b"epochs = 3")
    os.close(writing)
    assert make_recipe(f"/dev/fd/{reading}").epochs == 3
    os.close(reading)


def test_files_that_never_end_are_not_read_to_the_end():
    from zoo.errors import RecipeError
    from zoo.recipe import make_recipe

    with pytest.raises(RecipeError, match=r"/dev/zero.*65,536"):
        make_recipe("/dev/zero")


@pytest.mark.medium
@pytest.mark.parametrize(
    "umask", [0o077, *(pytest.param(umask, marks=pytest.mark.slow) for umask in (0o022, 0o002))]
)
def test_every_file_of_a_run_has_the_rights_that_the_umask_gives(photos, tmp_path, umask):
    from tests.conftest import QUICK

    before = os.umask(umask)
    try:
        zoo.finetune(photos, out=tmp_path / "run", **{**QUICK, "train": "probe"})
    finally:
        os.umask(before)
    files = [p for p in (tmp_path / "run").rglob("[!.]*") if p.is_file()]
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in files}
    own = {
        MODEL,
        "config.json",
        "recipe.toml",
        "metrics.csv",
        "README.md",
        "predictions.parquet",
        "report.html",
    }
    assert modes.keys() == {*own, "last.safetensors", "data.safetensors"}
    assert set(modes.values()) == {0o666 & ~umask}


@pytest.mark.slow
def test_a_hostile_run_takes_no_memory_from_predict(folder, photos):
    """In a process that may have as much as an honest run needs, and little more."""
    image = photos / "red" / "0.png"
    code = (
        "import resource, sys; n = int(sys.argv.pop(1));"
        "from zoo.cli import main; import zoo.runs.read;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + n, used + n)); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(2**32), "predict", str(folder), str(image)]
    subprocess.run(command, check=True, capture_output=True)
    for changes in (
        {"preprocess": preprocess(size=10**6)},
        {"class_names": json.dumps([str(n) for n in range(1_000_000)])},
        {"recipe": "x = " + "[" * 30_000},
    ):
        forge(folder / MODEL, **changes)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert re.fullmatch(r"Error: .*\n", done.stderr)
