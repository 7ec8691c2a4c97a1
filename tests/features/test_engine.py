"""Engines that compute features: as torch does, one a run, on a network that is converted once."""

import dataclasses
import json
from contextlib import suppress

import pytest
import torch

import zoo
from tests.conftest import QUICK, TINY, zoo_
from tests.features.test_pretrained import samples_of
from tests.pipeline.conftest import hear, sha256, start, state
from tests.pipeline.crash import Crash, check_equal, crash_at
from zoo import plugins
from zoo.engines import choice
from zoo.errors import PluginError, RunError
from zoo.events import EpochEnd, Note
from zoo.features import engine
from zoo.features.pretrained import features_of, load_pretrained
from zoo.io.files import home
from zoo.recipe import make_recipe


@pytest.mark.medium
@pytest.mark.parametrize(("runtime", "form"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_probe_by_a_runtime_is_that_by_torch_and_converts_once(
    split_photos, monkeypatch, runtime, form
):
    pytest.importorskip(runtime)
    fields = start(train="probe", cache_size=0.0)
    own, _, _ = hear(split_photos, "torch", **fields, engine="torch")
    run, _, _ = hear(split_photos, "run", **fields, engine=runtime)
    assert (own.info.recipe.engine, run.info.recipe.engine) == ("torch", runtime)
    assert run.info.val_accuracy == own.info.val_accuracy
    val = sorted((split_photos / "val").rglob("*.png"))
    for one, other in zip(run.predict(val), own.predict(val), strict=True):
        assert one.label == other.label
        assert one.probability == pytest.approx(other.probability, abs=1e-2)

    def never(*args):
        raise AssertionError("converted again")

    exporter = dataclasses.replace(plugins.declared_as("zoo_exporters", form), write=never)
    monkeypatch.setattr(choice, "runtimes", lambda: {runtime: (form, exporter)})
    again, _, _ = hear(split_photos, "again", **fields, engine=runtime)
    assert again.info.recipe.engine == runtime
    torch.testing.assert_close(state(again), state(run), rtol=0, atol=1e-4)


@pytest.mark.medium
def test_few_images_are_computed_by_torch_and_apart_from_those_of_other_engines(
    split_photos, exporters
):
    fields = start(train="probe")
    auto, _, computed = hear(split_photos, "auto", **fields)
    assert computed["features"] == 24
    assert auto.info.recipe.engine == "torch"
    assert not (home() / "engines").exists()
    own, _, computed = hear(split_photos, "torch", **fields, engine="torch")
    assert computed["features"] == 0
    assert sha256(own) == sha256(auto)
    other, _, computed = hear(split_photos, "right", **fields, engine="right")
    assert computed["features"] == 24
    assert other.info.recipe.engine == "right"
    assert other.info.val_accuracy == own.info.val_accuracy
    _, _, computed = hear(split_photos, "again", **fields, engine="right")
    assert computed["features"] == 0


@pytest.mark.medium
def test_torch_takes_over_from_an_engine_whose_features_differ(split_photos, exporters):
    fields, warnings = start(train="probe"), []

    def listen(event):
        if isinstance(event, Note) and event.warning:
            warnings.append(event.text)

    own = zoo.finetune(split_photos, out="torch", listen=listen, **fields, engine="torch")
    usual = len(warnings)
    run = zoo.finetune(split_photos, out="wrong", listen=listen, **fields, engine="wrong")
    assert len(warnings) == 2 * usual + 1
    assert any("torch" in text and "wrong" in text for text in warnings)
    assert run.info.recipe.engine == "torch"
    assert sha256(run) == sha256(own)


def test_an_engine_that_can_not_be_used_ends_a_run_and_leaves_nothing(
    split_photos, exporters, tmp_path
):
    for name in ("nothing", "broken"):
        with pytest.raises(PluginError):
            zoo.finetune(split_photos, out=tmp_path / name, **start(train="probe"), engine=name)
        assert not (tmp_path / name).exists()


@pytest.fixture
def many(monkeypatch):
    """Any number of images is worth converting for."""
    monkeypatch.setattr(engine, "WORTH_LOADING", 1)
    monkeypatch.setattr(engine, "WORTH_CONVERTING", 1)


@pytest.mark.medium
def test_a_resumed_run_keeps_its_engine(split_photos, exporters, many, monkeypatch):
    monkeypatch.setattr(engine, "measure", lambda *args: {"torch": 1.0, "right": 2.0})
    fields = {**start(train="probe"), "data": split_photos}
    undisturbed = zoo.finetune(out="undisturbed", **fields)
    assert undisturbed.info.recipe.engine == "right"
    for out in ("run", "other"):
        with suppress(Crash):
            zoo.finetune(out=out, listen=crash_at(1, EpochEnd), **fields)
    monkeypatch.setattr(engine, "WORTH_LOADING", 10**9)
    resumed = zoo.resume("run")
    assert resumed.info.recipe.engine == "right"
    check_equal(resumed, undisturbed)
    with pytest.raises(RunError):
        zoo.resume("other", engine="torch", allow_changed=True)
    del exporters["right"]
    with pytest.raises(PluginError):
        zoo.resume("other")


@pytest.fixture
def found(photos):
    """A function from an engine's name to the features of some photos, and the notes."""
    samples = samples_of(photos)[:6]

    def found(name):
        fields = {**QUICK, "train": "probe", "cache_size": 0.0, "engine": name}
        pretrained = load_pretrained(plugins.get(TINY), make_recipe(None, **fields))
        events = []
        (embedded,) = features_of(pretrained, samples, listen=events.append)
        return embedded.features, [event for event in events if isinstance(event, Note)]

    return found


def test_the_fastest_engine_is_measured_once_and_remembered(found, exporters, many, monkeypatch):
    own, _ = found("torch")
    torch.testing.assert_close(found("auto")[0], own, rtol=1e-3, atol=1e-3)
    (file,) = (home() / "engines").glob("*.json")
    assert json.loads(file.read_text()).keys() == {"torch", "right", "wrong"}
    file.write_text(json.dumps({"torch": 1.0, "right": 2.0}))
    monkeypatch.setattr(engine, "measure", None)
    features, (note,) = found("auto")
    torch.testing.assert_close(features, own, rtol=1e-3, atol=1e-3)
    assert "engine right" in note.text


def test_for_few_images_the_fastest_engine_is_not_converted_again(
    found, exporters, many, monkeypatch
):
    monkeypatch.setattr(engine, "remembered", lambda *args: {"torch": 1.0, "right": 2.0})
    own, _ = found("torch")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "WORTH_CONVERTING", 10**9)
        features, notes = found("auto")
        assert torch.equal(features, own)
        assert not notes
        assert not (home() / "engines").exists()
    found("auto")
    monkeypatch.setattr(engine, "WORTH_CONVERTING", 10**9)
    _, (note,) = found("auto")
    assert "engine right" in note.text


def test_torch_takes_over_from_a_chosen_engine_that_fails(found, exporters, many, monkeypatch):
    monkeypatch.setattr(engine, "remembered", lambda *args: {"torch": 1.0, "broken": 2.0})
    own, _ = found("torch")
    features, notes = found("auto")
    assert torch.equal(features, own)
    (warning,) = [note.text for note in notes if note.warning]
    assert "an operator is missing" in warning
    with pytest.raises(PluginError):
        found("broken")


def test_runs_are_not_compared_with_an_engine(run):
    zoo_("compare", run.path, run.path, "--engine", "torch", code=2)
