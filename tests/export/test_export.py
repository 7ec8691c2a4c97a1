"""Exported files: read without zoo, proved before they are there, and nothing left of failures."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from torch import nn
from torchvision.transforms import InterpolationMode, v2

import zoo
from tests.conftest import COLOURS, QUICK, save_photo
from zoo.cli import main
from zoo.errors import DataError, PluginError, RunError
from zoo.export import ExportReport, export

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}

KEYS = (
    "class_names",
    "preprocess",
    "task",
    "backbone",
    "sha256",
    "zoo_version",
    "temperature",
    "output",
)


@pytest.fixture(scope="module", params=SUFFIXES)
def exported(request, run, tmp_path_factory):
    """Format, file and report of an export of `run`."""
    file = tmp_path_factory.mktemp("exported") / f"model{SUFFIXES[request.param]}"
    return request.param, file, export(run, request.param, file)


def open_onnx(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    (given,) = session.get_inputs()
    found = session.get_modelmeta().custom_metadata_map
    return lambda images: session.run(None, {given.name: images})[0], found


def open_torch_export(file):
    found = dict.fromkeys(KEYS, "")
    model = torch.export.load(file, extra_files=found).module()
    return lambda images: model(torch.from_numpy(images)).detach().numpy(), found


OPEN = {"onnx": open_onnx, "torch-export": open_torch_export}


def pixels_of(files, preprocess):
    """Images as the metadata of the exported file describe its input, by torchvision alone."""
    resize = int(preprocess["size"] / preprocess["crop_pct"])
    transform = v2.Compose(
        [
            v2.Resize(resize, InterpolationMode(preprocess["interpolation"])),
            v2.CenterCrop(preprocess["size"]),
        ]
    )
    assert preprocess["crop_mode"] == "center"
    images = [np.asarray(transform(Image.open(file))) for file in files]
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def test_an_exported_file_predicts_without_zoo_what_the_run_predicts(exported, run, split_photos):
    form, file, _ = exported
    compute, found = OPEN[form](file)
    names = json.loads(found["class_names"])
    files = sorted((split_photos / "val").rglob("*.png"))
    images = pixels_of(files, json.loads(found["preprocess"]))
    expected = [prediction.label for prediction in run.predict(files)]
    assert [names[n] for n in compute(images).argmax(axis=1)] == expected
    assert [names[compute(images[n : n + 1])[0].argmax()] for n in range(3)] == expected[:3]


def test_the_probabilities_of_an_exported_file_are_calibrated(exported, run, split_photos):
    form, file, _ = exported
    compute, found = OPEN[form](file)
    assert run.info.temperature != 1
    files = sorted((split_photos / "val").rglob("*.png"))
    logits = torch.from_numpy(compute(pixels_of(files, json.loads(found["preprocess"]))))
    expected = [prediction.probability for prediction in run.predict(files)]
    assert logits.softmax(dim=1).max(dim=1).values.tolist() == pytest.approx(expected, abs=1e-5)
    assert "divided by the temperature" in found["output"]


def test_an_exported_file_says_which_run_it_is_of(exported, run):
    form, file, _ = exported
    _, found = OPEN[form](file)
    with safe_open(run.path / "model.safetensors", framework="pt") as model:
        assert found["sha256"] == model.metadata()["sha256"]
    assert (found["backbone"], found["task"]) == (run.info.backbone, "single-label")
    assert json.loads(found["class_names"]) == list(run.class_names)
    assert json.loads(found["temperature"]) == run.info.temperature


def test_the_report_says_how_the_file_compares_and_lies_beside_it(exported, run):
    form, file, report = exported
    assert (report.format, report.file, report.bytes) == (form, str(file), file.stat().st_size)
    assert report.images == run.evaluate().images == 12
    assert report.agreement == 1
    assert 0 <= report.largest_difference < 1e-4
    assert report.accuracy == report.run_accuracy == run.evaluate().accuracy
    assert report.latency_ms > 0
    assert report.run_latency_ms > 0
    beside = json.loads(Path(f"{file}.json").read_text())
    assert beside == {**asdict(report), "notes": []}
    assert sorted(file.parent.iterdir()) == [file, Path(f"{file}.json")]


FORMATS = """
import errno
import pathlib

import numpy as np
import torch
import zoo

@zoo.hookimpl
def zoo_exporters():
    formats = {"kept": (keep, load), "half": (half, load), "wrong": (keep, load_wrong)}
    formats |= {"nan": (keep, load_nan), "shape": (keep, load_shape), "missing": (missing, load)}
    formats |= {"none": (lambda *given: None, load)}
    return {
        name: zoo.Exporter(suffix=".kept", write=write, open=open_, install="acme[kept]")
        for name, (write, open_) in formats.items()
    }

MODELS = {}

def keep(model, example, path, metadata):
    print("chatter")
    path.write_text("kept")
    MODELS["last"] = model

def half(model, example, path, metadata):
    path.write_text("ha")
    (path.parent / "weights").write_text("lf")
    raise OSError(errno.ENOSPC, "No space left on device")

def missing(model, example, path, metadata):
    import a_runtime

def load(path):
    assert path.read_text() == "kept"
    return lambda images: MODELS["last"](torch.from_numpy(images)).detach().numpy()

def load_wrong(path):
    return lambda images: np.roll(load(path)(images), 1, axis=1)

def load_nan(path):
    return lambda images: load(path)(images) * np.nan

def load_shape(path):
    return lambda images: load(path)(images)[:, :2]
"""


@pytest.fixture
def formats(install):
    """A plugin with exporters that are fast, and some that fail."""
    install("zoo-acme", "acme", "acme_formats", FORMATS)


def invoke(*words):
    return CliRunner().invoke(main, ["export", *map(str, words)])


def left():
    return sorted(path.name for path in Path().iterdir())


@pytest.mark.usefixtures("formats")
@pytest.mark.medium
def test_a_plugins_exporter_is_listed_and_used(run):
    listed = CliRunner().invoke(main, ["plugins"]).stdout
    for name in ("half", "kept", "onnx", "torch-export"):
        assert f"exporter {name}" in listed
    result = invoke(run.path, "--to", "kept", "--out", "a.kept", "--format", "json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["format"], report["agreement"]) == ("kept", 1)
    assert report["largest_difference"] < 1e-5
    assert left() == ["a.kept", "a.kept.json"]
    table = invoke(run.path, "--to", "kept", "--out", "b.kept")
    assert "100.00%" in table.stdout
    assert "chatter" not in table.stdout


@pytest.mark.usefixtures("formats")
@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("half", "exporter half .*OSError: .*No space left"),
        ("missing", r"a_runtime.*pip install 'acme\[kept\]'"),
        ("none", "exporter none .*FileNotFoundError"),
        ("nan", "NaN"),
        ("shape", r"\(12, 2\) .*\(12, 3\)"),
    ],
)
def test_of_an_exporter_that_fails_nothing_is_left(run, form, said):
    with pytest.raises(PluginError, match=said):
        export(run, form, "a.kept")
    assert left() == []


@pytest.mark.usefixtures("formats")
@pytest.mark.medium
def test_a_file_that_predicts_otherwise_is_refused_unless_that_is_asked_for(run):
    result = invoke(run.path, "--to", "wrong", "--out", "a.kept")
    assert result.exit_code == 2
    assert "0.00% of 12" in result.stderr
    assert left() == []
    assert invoke(run.path, "--to", "wrong", "--out", "a.kept", "--min-agreement", 0).exit_code == 0
    assert json.loads(Path("a.kept.json").read_text())["agreement"] == 0


@pytest.mark.usefixtures("formats")
def test_what_exists_is_never_overwritten(run):
    for name in ("a.kept", "a.kept.json"):
        Path(name).write_text("mine")
        with pytest.raises(RunError, match=name):
            export(run, "kept", "a.kept")
        assert (left(), Path(name).read_text()) == ([name], "mine")
        Path(name).unlink()


@pytest.mark.usefixtures("formats")
@pytest.mark.slow
def test_a_file_lies_beside_its_run_folder_if_no_place_is_given(run):
    shutil.copytree(run.path, "bugs")
    export(zoo.load("bugs"), "kept")
    assert left() == ["bugs", "bugs.kept", "bugs.kept.json"]
    export(zoo.load("bugs/model.safetensors"), "kept")
    assert Path("bugs/model.kept").exists()


@pytest.mark.usefixtures("formats")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "tflite"], "'tflite'"),
        (["--to", "kept", "--out", "no/a.kept"], " no"),
        (["--to", "kept", "--out", "a.onnx"], "NAME.kept"),
        (["--to", "kept", "--out", "a.kept", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_refused_in_a_line(run, words, said):
    result = invoke(run.path, *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert left() == []


def test_what_is_no_run_is_refused():
    Path("folder").mkdir()
    result = invoke("folder", "--to", "onnx")
    assert result.exit_code == 2
    assert "no run" in result.stderr


@pytest.mark.usefixtures("formats")
@pytest.mark.slow
def test_without_its_images_a_run_is_compared_on_random_ones_or_on_others(photos):
    shutil.copytree(photos, "data")
    run = zoo.finetune("data", out="run", **QUICK, train="probe")
    shutil.move("data", "moved")
    report = export(run, "kept", "a.kept")
    assert (report.source, report.agreement) == ("random images", 1)
    assert report.accuracy is report.run_accuracy is None
    assert "random images" in report.notes[0]
    assert json.loads(Path("a.kept.json").read_text())["accuracy"] is None
    assert export(run, "kept", "b.kept", data="moved").images == 30
    with pytest.raises(DataError):
        export(run, "kept", "c.kept", data="data")


@pytest.mark.usefixtures("formats")
@pytest.mark.slow
def test_of_several_labels_all_must_be_the_same(monkeypatch):
    lines = ["path,labels"]
    for n in range(24):
        names = [name for bit, name in enumerate(COLOURS) if n % 4 >> bit & 1]
        save_photo(
            Path(f"{n}.png"),
            tuple(np.sum([COLOURS[name] for name in names], axis=0)) if names else (9, 9, 9),
            n,
        )
        lines.append(f"{n}.png,{'|'.join(names)}")
    Path("table.csv").write_text("\n".join(lines))
    run = zoo.finetune("table.csv", out="run", task="multi-label", **QUICK, train="probe")
    report = export(run, "kept", "a.kept")
    assert report.agreement == 1
    assert report.accuracy == run.evaluate().accuracy
    code = sys.modules["acme_formats"]
    # One label of each image is another one: its logit has the opposite sign.
    flip = np.array([-1.0, *[1.0] * (len(run.class_names) - 1)], dtype=np.float32)
    plain = code.load
    monkeypatch.setattr(code, "load", lambda path: lambda images: plain(path)(images) * flip)
    with pytest.raises(RunError, match=r"0\.00%"):
        export(run, "kept", "b.kept")


class Eigenvalues(nn.Module):
    """What ONNX has no operator for."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return torch.linalg.eigvals(images[:, :, :3, :3].mean(dim=1)).real * self.scale


@pytest.mark.medium
def test_an_operator_that_the_format_lacks_is_named(run):
    with pytest.raises(PluginError, match=r"exporter onnx .*aten\.linalg_eig"):
        export(replace(run, model=Eigenvalues().eval()), "onnx", "a.onnx")
    assert left() == []


def test_a_runtime_that_is_not_installed_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PluginError, match=r"pip install 'zoo-finetune\[onnx\]'"):
        export(run, "onnx", "a.onnx")
    assert left() == []


def test_a_plugin_whose_hook_fails_hides_no_other_plugins_exporters(install, run):
    code = """
    import zoo

    @zoo.hookimpl
    def zoo_exporters():
        raise ValueError("boom")
    """
    install("zoo-broken", "broken", "broken_formats", code)
    with pytest.raises(PluginError, match=r"onnx, torch-export\nplugin broken .*boom"):
        export(run, "tflite")
    with pytest.raises(RunError, match=r"\.onnx"):
        export(run, "onnx", "a.txt")


@pytest.mark.medium
def test_the_documented_plugin_exports(install, run):
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (code,) = (block for block in blocks if "def zoo_exporters" in block)
    install("zoo-acme", "acme", "acme_documented", code)
    assert export(run, "acme", "a.pt2").agreement == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", SUFFIXES)
def test_the_command_line_prints_nothing_of_what_torch_says(run, form):
    words = [str(run.path), "--to", form, "--out", f"a{SUFFIXES[form]}", "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "export", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ExportReport(**json.loads(done.stdout)).agreement == 1
