"""Exported files: read without zoo, proved before they are there, and nothing left of failures."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn
from torchvision.transforms import InterpolationMode, v2

import zoo
from tests.conftest import COLOURS, QUICK, make_photos, save_photo, zoo_
from tests.data.servers import web_server
from zoo.errors import DataError, OptionError, PluginError, RunError
from zoo.export import ExportOptions, ExportReport, export
from zoo.export.card import with_export
from zoo.export.proof import calibration_images
from zoo.tasks.paired import wilson_interval

SUFFIXES = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch-export": ".pt2",
    "executorch": ".pte",
    "litert": ".tflite",
}

#: litert-torch can't be a requirement of the tests: it requires releases of typing-extensions and
#: others that are too old for their libraries. `.ci/run` installs it without its requirements.
NEEDS_LITERT = pytest.mark.skipif(find_spec("litert_torch") is None, reason="no litert-torch")


def forms(mark):
    """The formats as parameters of a test; mark is that of those whose conversion takes seconds."""
    marks = {"torch-export": (), "litert": (pytest.mark.slow, NEEDS_LITERT)}
    return [pytest.param(form, marks=marks.get(form, mark)) for form in SUFFIXES]


#: What writes and runs a file, beside torch.
LIBRARIES = {
    "onnx": {"onnx", "onnxruntime", "onnxscript"},
    "openvino": {"openvino"},
    "torch-export": set(),
    "executorch": {"executorch"},
    "litert": {"ai-edge-litert", "ai-edge-quantizer", "litert-torch"},
}

KEYS = (
    "class_names",
    "preprocess",
    "task",
    "backbone",
    "sha256",
    "zoo_version",
    "temperature",
    "output",
    "mean",
    "versions",
)


@pytest.fixture(scope="module", params=forms(pytest.mark.medium))
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


def open_openvino(file):
    import openvino

    model = openvino.Core().read_model(file)
    found = {name: model.get_rt_info(["zoo", name]).astype(str) for name in KEYS}
    compute = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compute([images])[0].copy(), found


def open_executorch(file):
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(file)
    found = {name: program.load_method(name).execute([])[0] for name in KEYS}
    model = program.load_method("forward")
    return lambda images: model.execute([torch.from_numpy(images)])[0].numpy(), found


def open_litert(file):
    from ai_edge_litert.interpreter import Interpreter

    with zipfile.ZipFile(file) as archive:
        found = {name: archive.read(name).decode() for name in KEYS}
    model = Interpreter(str(file)).get_signature_runner()
    (output,) = model.get_output_details()
    return lambda images: np.concatenate([model(images=i[None])[output] for i in images]), found


OPEN = {
    "onnx": open_onnx,
    "openvino": open_openvino,
    "torch-export": open_torch_export,
    "executorch": open_executorch,
    "litert": open_litert,
}


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
    assert json.loads(found["mean"]) == list(run.info.preprocess.mean)
    versions = json.loads(found["versions"])
    assert versions.pop("run") == dict(run.info.versions)
    assert versions.keys() == {"python", "zoo", "torch"} | LIBRARIES[form]
    assert (found["backbone"], found["task"]) == (run.info.backbone, "single-label")
    assert json.loads(found["class_names"]) == list(run.class_names)
    assert json.loads(found["temperature"]) == run.info.temperature


def test_the_report_says_how_the_file_compares_and_lies_beside_it(exported, run):
    form, file, report = exported
    files = [file, file.with_suffix(".bin")] if form == "openvino" else [file]
    size = sum(each.stat().st_size for each in files)
    assert (report.format, report.file, report.bytes) == (form, str(file), size)
    assert report.images == run.evaluate().images == 12
    assert report.agreement == 1
    assert 0 <= report.largest_difference < 1e-4
    assert report.accuracy == report.run_accuracy == run.evaluate().accuracy
    assert report.latency_ms > 0
    assert report.run_latency_ms > 0
    assert min(report.images_per_second, report.run_images_per_second) > 0
    assert report.accuracy_interval == wilson_interval(report.accuracy * 12, 12)
    beside = json.loads(Path(f"{file}.json").read_text())
    assert beside == json.loads(json.dumps(asdict(report)))
    others = [Path(f"{file}.{end}") for end in ("Dockerfile", "json", "predict.py")]
    assert sorted(file.parent.iterdir()) == sorted([*files, *others])


def test_the_card_lists_each_export_once(exported, run):
    form, file, report = exported
    card = (run.path / "README.md").read_text()
    assert card.count("## Exports") == 1
    (row,) = (line for line in card.splitlines() if line.startswith(f"| {file.name} | {form} |"))
    assert f"{report.accuracy:.2%}" in row
    again = with_export(card, report)
    assert again.count(row) == 1
    # What follows the section stays.
    later = with_export(f"{card}\n## Later\n\ntext\n", replace(report, file="b.onnx"))
    assert later.endswith("\n## Later\n\ntext\n")
    assert later.count("| b.onnx |") == 1


@pytest.mark.medium
def test_the_script_beside_a_file_predicts_what_the_run_predicts(exported, run, split_photos):
    _, file, _ = exported
    lines = Path(f"{file}.predict.py").read_text().splitlines()
    assert len([line for line in lines if line]) <= 36
    files = sorted((split_photos / "val").rglob("*.png"))
    found = predict_by_script(file, files)
    expected = run.predict(files)
    assert [each["label"] for each in found] == [each.label for each in expected]
    probabilities = [each["probability"] for each in found]
    assert probabilities == pytest.approx([each.probability for each in expected], abs=1e-4)


@pytest.mark.medium
@pytest.mark.parametrize("form", forms(pytest.mark.slow))
def test_the_script_predicts_several_labels_by_the_thresholds_of_the_run(run, split_photos, form):
    several = replace(run, info=replace(run.info, task="multi-label"))
    files = sorted((split_photos / "val").rglob("*.png"))
    found = [dict(each.top) for each in several.predict(files)]
    # Half of the images reach the threshold of each class.
    columns = [sorted(each[name] for each in found) for name in run.class_names]
    middle = len(files) // 2
    thresholds = tuple((column[middle - 1] + column[middle]) / 2 for column in columns)
    several = replace(several, info=replace(several.info, thresholds=thresholds))
    file = Path(f"a{SUFFIXES[form]}")
    assert export(several, form, file).agreement == 1
    expected = [list(each.labels) for each in several.predict(files)]
    assert sum(map(len, expected)) == middle * len(run.class_names)
    assert [each["labels"] for each in predict_by_script(file, files)] == expected


def test_the_dockerfile_copies_and_runs_what_lies_beside_the_file(exported):
    _, file, _ = exported
    lines = Path(f"{file}.Dockerfile").read_text().splitlines()
    (copied,) = (json.loads(line.removeprefix("COPY ")) for line in lines if "COPY" in line)
    assert all((file.parent / name).exists() for name in copied[:-1])
    assert copied[0] == file.name
    (command,) = (json.loads(line.partition(" ")[2]) for line in lines if "ENTRYPOINT" in line)
    assert command == ["python", f"/app/{file.name}.predict.py"]


def predict_by_script(file, images):
    """The lines of the script beside a file; it imports no zoo; torch only for torch's formats."""
    forbidden = ["zoo"] if file.suffix in (".pt2", ".pte") else ["zoo", "torch"]
    code = f"""
import runpy, sys
for name in {forbidden}:
    sys.modules[name] = None
sys.argv = {[f"{file}.predict.py", *map(str, images)]}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


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


def left():
    return sorted(path.name for path in Path().iterdir())


@pytest.mark.usefixtures("formats")
@pytest.mark.medium
def test_a_plugins_exporter_is_listed_and_used(run):
    listed = zoo_("plugins").stdout
    for name in ("half", "kept", "onnx", "torch-export"):
        assert f"exporter {name}" in listed
    result = zoo_("export", run.path, "--to", "kept", "--out", "a.kept", "--format", "json")
    report = json.loads(result.stdout)
    assert (report["format"], report["agreement"]) == ("kept", 1)
    assert report["largest_difference"] < 1e-5
    assert left() == ["a.kept", "a.kept.json"]
    table = zoo_("export", run.path, "--to", "kept", "--out", "b.kept")
    assert "100.00%" in table.stdout
    assert "chatter" not in table.stdout


@pytest.mark.usefixtures("formats")
@pytest.mark.parametrize("given", [".", "model.safetensors", "../photos/model.safetensors"])
def test_the_file_lies_beside_the_run_folder(run, tmp_path, monkeypatch, given):
    folder = Path(shutil.copytree(run.path, tmp_path / "photos"))
    monkeypatch.chdir(folder)
    before = left()
    export(zoo.load(given, device="cpu"), "kept")
    assert left() == before
    assert (tmp_path / "photos.kept").is_file()


@pytest.mark.usefixtures("formats")
def test_the_file_of_a_bare_model_lies_beside_it(run):
    shutil.copy(run.path / "model.safetensors", "alone.safetensors")
    export(zoo.load("alone.safetensors", device="cpu"), "kept")
    assert left() == ["alone.kept", "alone.kept.json", "alone.safetensors"]


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
    result = zoo_("export", run.path, "--to", "wrong", "--out", "a.kept", code=2)
    assert "0.00% of 12" in result.stderr
    assert left() == []
    zoo_("export", run.path, "--to", "wrong", "--out", "a.kept", "--min-agreement", 0)
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
    result = zoo_("export", run.path, *words, code=2)
    assert said in result.stderr
    assert left() == []


@pytest.mark.usefixtures("formats")
@pytest.mark.parametrize("name", [b"caf\xe9.kept", b"caf\xe9/a.kept"])
def test_a_path_that_is_not_utf8_is_refused_before_it_is_tried(run, name):
    out = Path(os.fsdecode(name))
    out.parent.mkdir(exist_ok=True)
    before = left()
    with pytest.raises(RunError, match="UTF-8"):
        export(run, "missing", out)
    assert left() == before


def test_a_damaged_model_file_is_refused(run):
    shutil.copytree(run.path, "bugs")
    file = Path("bugs/model.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    result = zoo_("export", "bugs", "--to", "onnx", code=2)
    assert isinstance(result.exception, SystemExit)
    assert left() == ["bugs"]


def test_what_is_no_run_is_refused():
    Path("folder").mkdir()
    result = zoo_("export", "folder", "--to", "onnx", code=2)
    assert "no run" in result.stderr


@pytest.mark.usefixtures("formats")
@pytest.mark.medium
def test_images_at_addresses_are_compared_on_if_allowed(run, split_photos):
    file = next(split_photos.rglob("*.png"))
    with web_server() as web:
        web.add(file.parent)
        Path("mine.csv").write_text(f"path,label\n{web.address}/{file.name},{file.parent.name}\n")
        with pytest.raises(DataError):
            export(run, "kept", "a.kept", data="mine.csv")
        zoo_("export", run.path, "--to", "kept", "--out", "a.kept", "--data", "mine.csv", code=2)
        assert web.requests == []
        report = export(run, "kept", "a.kept", data="mine.csv", allow_network=True)
        assert report.images == 1
        zoo_("export", run.path, "--to=kept", "--out=b.kept", "--data=mine.csv", "--allow-network")


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
    with pytest.raises(PluginError, match=r"onnx, openvino, torch-export\nplugin broken .*boom"):
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
@pytest.mark.parametrize("form", forms(pytest.mark.slow))
def test_the_command_line_prints_nothing_of_what_torch_says(run, form):
    words = [str(run.path), "--to", form, "--out", f"a{SUFFIXES[form]}", "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "export", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    report = ExportReport(**json.loads(done.stdout))
    assert report.agreement == 1
    # A LiteRT file takes one image at a time.
    assert len(report.notes) == (form == "litert")
    assert done.stderr == "".join(f"! {note}\n" for note in report.notes)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm/test_vit_relpos", "timm/hiera_tiny_224"])
def test_attention_that_the_exporter_of_torch_refuses_is_written_as_onnx(split_photos, backbone):
    """One has a bias in its attention, the queries of the other have five dimensions, not four."""
    fields = {**QUICK, "backbone": backbone, "image_size": None}
    attentive = zoo.finetune(split_photos, out="attentive", **fields)
    assert export(attentive, "onnx", "a.onnx").agreement == 1


#: Options, the formats that support them, and the largest difference of two outputs.
ASKED = [
    ("onnx", {"half": True}, 0.1),
    ("openvino", {"half": True}, 0.1),
    pytest.param("torch-export", {"half": True}, 0.1, marks=pytest.mark.slow),
    ("onnx", {"with_resize": True, "probabilities": True}, 0.02),
    pytest.param("openvino", {"with_resize": True}, 0.05, marks=pytest.mark.slow),
    pytest.param("torch-export", {"with_resize": True}, 0.05, marks=pytest.mark.slow),
    ("onnx", {"probabilities": True}, 1e-5),
    ("onnx", {"int8": True}, 5.0),
    pytest.param("litert", {"half": True}, 0.1, marks=(pytest.mark.slow, NEEDS_LITERT)),
    pytest.param(
        "litert",
        {"int8": True, "probabilities": True},
        1.0,
        marks=(pytest.mark.slow, NEEDS_LITERT),
    ),
]


@pytest.mark.medium
@pytest.mark.parametrize(("form", "options", "most"), ASKED)
def test_a_file_with_options_predicts_what_the_run_predicts(run, split_photos, form, options, most):
    file = Path(f"a{SUFFIXES[form]}").resolve()
    report = export(run, form, file, options=ExportOptions(**options))
    assert report.options == options
    assert report.largest_difference < most
    files = sorted((split_photos / "val").rglob("*.png"))
    found = predict_by_script(file, files)
    if "int8" not in options:
        assert report.agreement == 1
        assert [each["label"] for each in found] == [each.label for each in run.predict(files)]
    compute, about = OPEN[form](file)
    assert about["output"].startswith("probabilities" if "probabilities" in options else "logits")
    if options == {"probabilities": True}:
        zeros = np.zeros((3, 3, 32, 32), dtype=np.uint8)
        assert compute(zeros).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    if "with_resize" in options:
        assert compute(np.zeros((2, 333, 50, 3), dtype=np.uint8)).shape == (2, 3)


@pytest.mark.medium
def test_half_and_8_bit_files_are_smaller(run):
    sizes = [
        export(run, "onnx", f"{n}.onnx", options=options, min_agreement=0).bytes
        for n, options in enumerate(
            [ExportOptions(), ExportOptions(half=True), ExportOptions(int8=True)]
        )
    ]
    # The graph and its metadata are a quarter of so small a file.
    assert sizes[0] > 1.4 * sizes[1]
    assert sizes[0] > 1.2 * sizes[2]
    import onnx

    model = onnx.load("2.onnx")
    scales = [t for t in model.graph.initializer if t.name.endswith("weight_scale")]
    assert max(np.prod(t.dims, initial=1) for t in model.graph.initializer if t in scales) > 1


@pytest.mark.parametrize(("per_class", "images"), [(2, 6), (60, 128), (100, 128)])
def test_quantisation_is_calibrated_on_images_of_all_classes(run, tmp_path, per_class, images):
    make_photos(tmp_path / "data" / "train", per_class)
    make_photos(tmp_path / "data" / "val", 1)
    given = np.concatenate(list(calibration_images(run, tmp_path / "data")))
    assert len(given) == images
    brightest = given.mean(axis=(2, 3)).argmax(axis=1)
    assert min(np.bincount(brightest, minlength=3)) >= images // 3


@pytest.mark.medium
def test_an_opset_is_kept_or_refused(run):
    import onnx

    export(run, "onnx", "a.onnx", options=ExportOptions(opset=18))
    (opset,) = (each.version for each in onnx.load("a.onnx").opset_import if not each.domain)
    assert opset == 18
    with pytest.raises(PluginError):
        export(run, "onnx", "b.onnx", options=ExportOptions(opset=7))
    assert not list(Path().glob("b.onnx*"))


@pytest.mark.usefixtures("formats")
@pytest.mark.parametrize(
    "words",
    [
        ["--to", "kept", "--half"],
        ["--to", "kept", "--with-resize"],
        ["--to", "openvino", "--int8"],
        ["--to", "openvino", "--opset", 18],
        ["--to", "onnx", "--half", "--int8"],
        ["--to", "litert", "--with-resize"],
        ["--to", "coreml"],
    ],
)
def test_what_a_format_does_not_support_is_refused_before_it_is_tried(run, words):
    result = zoo_("export", run.path, *words, "--out", "a.x", code=2)
    assert isinstance(result.exception, SystemExit)
    assert left() == []


def test_options_that_exclude_each_other_are_refused():
    with pytest.raises(OptionError):
        ExportOptions(half=True, int8=True)


@pytest.mark.medium
@pytest.mark.usefixtures("formats")
def test_a_file_that_differs_is_written_if_that_is_allowed(run):
    report = export(run, "wrong", "a.kept", allow_difference=True)
    assert report.agreement == 0
    assert len(report.notes) == 1
    assert json.loads(Path("a.kept.json").read_text())["notes"] == list(report.notes)


@pytest.mark.medium
@pytest.mark.usefixtures("formats")
def test_of_an_export_that_can_not_be_moved_nothing_is_left(run, monkeypatch):
    card = (run.path / "README.md").read_text()
    place = Path.replace

    def full(self, target):
        if Path(target).name == "a.kept.json":
            raise OSError(28, "No space left on device")
        return place(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError):
        export(run, "kept", "a.kept")
    assert left() == []
    assert (run.path / "README.md").read_text() == card
