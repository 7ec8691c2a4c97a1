"""Engines: the converted network, its comparison with torch, the choice."""

import dataclasses
import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import zoo_
from zoo import plugins
from zoo.engines import choice
from zoo.errors import PluginError, RunError
from zoo.io.files import home
from zoo.prediction import engines
from zoo.prediction.engines import choose_engine


@pytest.fixture
def images(split_photos):
    return sorted((split_photos / "val").rglob("*.png"))


@pytest.mark.medium
@pytest.mark.parametrize(
    ("runtime", "form", "last"),
    [("onnxruntime", "onnx", "network.onnx"), ("openvino", "openvino", "network.bin")],
)
def test_a_runtime_predicts_as_torch_does_and_converts_once(
    run, images, monkeypatch, runtime, form, last
):
    pytest.importorskip(runtime)
    expected = run.predict(images)
    engine = choose_engine(run, runtime).engine
    assert engine.name == runtime
    for one, other in zip(run.stream(images, engine=engine), expected, strict=True):
        assert one.label == other.label
        assert one.probability == pytest.approx(other.probability, abs=1e-3)
        assert one.distance == pytest.approx(other.distance, rel=1e-2)

    def never(*args):
        raise AssertionError("converted again")

    exporter = dataclasses.replace(plugins.declared_as("zoo_exporters", form), write=never)
    monkeypatch.setattr(choice, "runtimes", lambda: {runtime: (form, exporter)})
    again = choose_engine(run, runtime).engine
    assert len(list(run.stream(images, engine=again))) == len(images)
    (network,) = (home() / "engines").glob(f"*/{last}")
    network.write_bytes(network.read_bytes()[:-1])
    with pytest.raises(PluginError):
        choose_engine(run, runtime)


#: Uses an engine, lets another thread be the last that knows it, and gets a signal.
_SIGNALLED = """
import os, signal, sys, threading
import zoo
from zoo.prediction.engines import choose_engine

signal.signal(signal.SIGUSR1, lambda number, frame: None)
kept = [choose_engine(zoo.load(sys.argv[1]), sys.argv[2])]
thread = threading.Thread(target=kept.clear)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.medium
@pytest.mark.parametrize(
    "runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)]
)
def test_a_signal_after_an_engine_was_deleted_in_another_thread_is_handled(run, runtime):
    pytest.importorskip(runtime)
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED, str(run.path), runtime], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_torch_takes_over_from_an_engine_that_differs(run, images, exporters):
    said = []
    engine = choose_engine(run, "wrong", say=said.append).engine
    found = list(run.stream(images, engine=engine, batch_size=4))
    assert len(said) == 1
    assert "torch" in said[0]
    for one, other in zip(found, run.predict(images), strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-4)
    said.clear()
    list(run.stream(images, engine=choose_engine(run, "right", say=said.append).engine))
    assert not said


def test_the_faster_engine_is_measured_once_and_remembered(run, exporters, monkeypatch):
    assert choose_engine(run, "auto", images=10, say=pytest.fail).engine.name == "torch"
    said = []
    choice = choose_engine(run, "auto", images=10_000, batch_size=2, say=said.append)
    assert choice.reason
    assert len(said) == 1
    assert "broken" in said[0]
    (file,) = (home() / "engines").glob("*.json")
    assert json.loads(file.read_text()).keys() == {"torch", "right", "wrong"}
    file.write_text(json.dumps({"torch": 1.0, "right": 2.0}))
    monkeypatch.setattr(engines, "measure", None)
    again = choose_engine(run, "auto", images=10, batch_size=2, say=pytest.fail)
    assert again.engine.name == "right"


def test_a_measurement_that_can_not_be_kept_is_used_all_the_same(run, exporters, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(choice, "replacing", full)
    del exporters["broken"]
    said = []
    assert choose_engine(run, "auto", batch_size=2, say=said.append).reason
    assert len(said) == 1
    assert "No space left" in said[0]


def test_for_few_images_the_faster_engine_is_not_converted_again(run, exporters, monkeypatch):
    monkeypatch.setattr(engines, "remembered", lambda *args: {"torch": 1.0, "right": 2.0})
    choice = choose_engine(run, "auto", images=10, say=pytest.fail)
    assert (choice.engine.name, choice.reason) == ("torch", "")
    assert not (home() / "engines").exists()
    assert choose_engine(run, "auto", images=10_000, say=pytest.fail).engine.name == "right"
    assert choose_engine(run, "auto", images=10, say=pytest.fail).engine.name == "right"


def test_torch_takes_over_from_a_chosen_engine_that_fails(run, images, exporters, monkeypatch):
    monkeypatch.setattr(engines, "remembered", lambda *args: {"torch": 1.0, "broken": 2.0})
    said = []
    choice = choose_engine(run, "auto", say=said.append)
    assert (choice.engine.name, choice.reason) == ("torch", "")
    assert len(said) == 1
    assert "an operator is missing" in said[0]

    def failing(path):
        def compute(array):
            raise ValueError("no memory")

        return compute

    form, exporter = exporters["right"]
    exporters["broken"] = (form, dataclasses.replace(exporter, open=failing))
    said.clear()
    engine = choose_engine(run, "auto", say=said.append).engine
    found = list(run.stream(images, engine=engine, batch_size=4))
    assert len(said) == 1
    assert "no memory" in said[0]
    for one, other in zip(found, run.predict(images), strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-4)
    with pytest.raises(PluginError):
        list(run.stream(images, engine=choose_engine(run, "broken").engine))


def test_an_engine_that_can_not_be_used_is_an_error(run, exporters):
    with pytest.raises(PluginError):
        choose_engine(run, "nothing")
    with pytest.raises(PluginError):
        choose_engine(run, "broken")
    with pytest.raises(RunError):
        choose_engine(run, "right", precision="bf16")


def test_the_engine_of_an_unfinished_file_is_kept(run, images, exporters, monkeypatch):
    from zoo.runs import read

    def interrupt(path, **kwargs):
        raise KeyboardInterrupt

    arguments = ["predict", str(run.path), *map(str, images), "--out", "a.jsonl"]
    with monkeypatch.context() as patch:
        patch.setattr(read, "read_image", interrupt)
        zoo_(*arguments, "--engine", "right", code=130)
    other = zoo_(*arguments, "--resume", "--engine", "torch", code=2)
    assert "right" in other.stderr
    zoo_(*arguments, "--resume")
    assert Path("a.jsonl").read_bytes().count(b"\n") == len(images)
