"""The checks of an exporter, proven by faults; zoo's own exporters pass them."""

import sys
import types

import pytest

from tests.export.test_export import NEEDS_LITERT
from tests.testing.results import failed
from zoo.testing import check_exporter, check_names

#: A format that keeps the model in the process, to be fast: the file names it.
SOUND = """
import json

import numpy as np
import torch
import zoo

MODELS = []


@zoo.hookimpl
def zoo_exporters():
    options = ("half", "int8", "opset", "with_resize")
    return {"kept": zoo.Exporter(suffix=".kept", write=write, open=load, options=options)}


def write(
    model, example, path, metadata, *, half=False, int8=(), opset=20, with_resize=False
):
    import a_runtime

    MODELS.append(model.half() if half else model)
    assert all(batch.shape[1:] == example.shape[1:] for batch in int8)
    if opset > 20:
        raise ValueError(opset)
    path.write_text(json.dumps({"model": len(MODELS) - 1, **metadata}))


def load(path):
    import a_runtime

    model = MODELS[json.loads(path.read_text())["model"]]
    return lambda images: model(torch.from_numpy(images)).detach().numpy()
"""

#: Fault -> (text of the sound plugin, its mutation, the check that catches it).
FAULTS = {
    "a function": (
        'zoo.Exporter(suffix=".kept", write=write, open=load, options=options)',
        "write",
        "check_exporter_is_declared",
    ),
    "no function": ("open=load", "open=None", "check_exporter_is_declared"),
    "does not write": ("path.write_text(", "str(", "check_one_file_is_written"),
    "two files": (
        "    MODELS.append(",
        "    (path.parent / 'weights').touch()\n    MODELS.append(",
        "check_one_file_is_written",
    ),
    "does not open": (
        "json.loads(path.read_text())",
        "json.loads('{}')",
        "check_logits_are_those_of_the_model",
    ),
    "a path that is remembered": (
        'json.dumps({"model": len(MODELS) - 1, **metadata})',
        'json.dumps({"model": str(path), **metadata})',
        "check_logits_are_those_of_the_model",
    ),
    "other logits": (".numpy()\n", ".numpy() + 0.1\n", "check_logits_are_those_of_the_model"),
    "classes in another order": (
        ".numpy()\n",
        ".numpy()[:, ::-1]\n",
        "check_logits_are_those_of_the_model",
    ),
    "images normalised twice": (
        "from_numpy(images)",
        "from_numpy(images) / 255",
        "check_logits_are_those_of_the_model",
    ),
    "a fixed batch size": (
        "from_numpy(images)",
        "from_numpy(images)[:2]",
        "check_other_batch_sizes",
    ),
    "an option that is not taken": (
        "    if opset",
        "    if int8:\n        raise TypeError('int8')\n    if opset",
        "check_declared_options_are_taken",
    ),
    "an option that is not declared": ('"half", ', "", "check_declared_options_are_taken"),
    "an option that changes logits": (
        "model.half() if half",
        "torch.nn.Sequential(model, torch.nn.ReLU()) if half",
        "check_declared_options_are_taken",
    ),
    "any opset": ("opset > 20", "opset < 0", "check_declared_options_are_taken"),
    "no metadata": (", **metadata", "", "check_metadata_is_kept"),
}


@pytest.fixture
def a_runtime(monkeypatch):
    """The library of the format, installed."""
    monkeypatch.setitem(sys.modules, "a_runtime", types.ModuleType("a_runtime"))


@pytest.mark.usefixtures("a_runtime")
def test_a_sound_exporter_passes_every_check(install):
    install("acme-kept", "kept", "acme_kept_sound", SOUND)
    results = check_exporter("kept")
    assert tuple(r.check for r in results) == check_names("exporter")
    assert {(r.kind, r.name, r.status) for r in results} == {("exporter", "kept", "passed")}


@pytest.mark.usefixtures("a_runtime")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault, install):
    old, new, name = FAULTS[fault]
    assert old in SOUND
    install("acme-kept", "kept", f"acme_kept_{fault.replace(' ', '_')}", SOUND.replace(old, new))
    assert failed(check_exporter("kept")) == [name]


def test_every_check_is_proven_by_a_fault():
    assert {name for _, _, name in FAULTS.values()} == set(check_names("exporter"))


def test_without_its_library_an_exporter_fails_its_checks_and_names_it(install):
    install("acme-kept", "kept", "acme_kept_missing", SOUND)
    (result,) = (r for r in check_exporter("kept") if r.status == "failed")
    assert result.check == "check_one_file_is_written"
    assert "needs a_runtime, which is not installed" in result.message


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("torch-export", marks=pytest.mark.medium),
        pytest.param("onnx", marks=pytest.mark.slow),
        pytest.param("openvino", marks=pytest.mark.slow),
        pytest.param("executorch", marks=pytest.mark.slow),
        pytest.param("litert", marks=(pytest.mark.slow, NEEDS_LITERT)),
    ],
)
def test_zoos_formats_pass(name):
    assert {r.check: r.status for r in check_exporter(name) if r.status != "passed"} == {}


def test_a_format_that_can_not_be_written_is_skipped_with_its_reason():
    results = {r.check: r for r in check_exporter("coreml")}
    assert results.pop("check_exporter_is_declared").status == "passed"
    assert {r.status for r in results.values()} == {"skipped"}
    assert results["check_one_file_is_written"].message


@pytest.mark.usefixtures("a_runtime")
def test_companions_of_a_file_are_written_and_moved_with_it(install):
    changes = {
        'suffix=".kept",': 'suffix=".kept", companions=(".more",),',
        "    MODELS.append(": "    path.with_suffix('.more').touch()\n    MODELS.append(",
        "    model = ": "    assert path.with_suffix('.more').exists()\n    model = ",
    }
    code = SOUND
    for old, new in changes.items():
        code = code.replace(old, new)
    install("acme-kept", "kept", "acme_kept_companions", code)
    assert {r.status for r in check_exporter("kept")} == {"passed"}
