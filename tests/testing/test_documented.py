"""The odd plugin of docs/plugins.md, and the page's list of checks."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import zoo
from tests.conftest import write_plugin
from zoo.cli import main
from zoo.testing import check_backbone
from zoo.testing.checks import CHECKS

ROOT = Path(__file__).parents[2]
TWINS = ROOT / "tests" / "twins"
PAGE = (ROOT / "docs" / "plugins.md").read_text()


@pytest.fixture
def twins(tmp_path, monkeypatch, fresh_plugins):
    """The plugin, installed, and its published weights where torch's cache would have them."""
    write_plugin(tmp_path, "zoo-twins", "twins", "zoo_twins", (TWINS / "zoo_twins.py").read_text())
    (tmp_path / "twinnet.py").write_text((TWINS / "twinnet.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("zoo_twins", "twinnet"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    fresh_plugins()
    module = importlib.import_module("zoo_twins")
    torch.manual_seed(3)
    state = importlib.import_module("twinnet").TwinNet().state_dict()
    file = tmp_path / "published.pth"
    torch.save({f"encoder.{name}": tensor for name, tensor in state.items()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    declared = dataclasses.replace(module.WEIGHTS, sha256=digest)
    monkeypatch.setattr(module, "WEIGHTS", declared)
    cached = zoo.weights.cache_path(declared)
    cached.parent.mkdir(parents=True)
    file.rename(cached)
    return state


def test_the_page_shows_the_plugin_that_is_tested():
    for name in ("twinnet.py", "zoo_twins.py"):
        assert (TWINS / name).read_text() in PAGE


def test_the_page_lists_every_check_with_its_claim():
    for check in CHECKS:
        claim = inspect.getdoc(check.function).partition("\n")[0]
        assert f"| `{check.name}` | {claim} |" in PAGE


def test_the_odd_plugin_passes_every_check(twins):
    results = check_backbone("twins/twinnet")
    assert {r.check: r.message for r in results if r.status != "passed"} == {}


def test_the_odd_plugin_starts_from_its_published_weights(twins):
    model = zoo.build("twinnet", 3)
    assert torch.equal(model.layers[1].mlp[1].weight, twins["layers.1.mlp.1.weight"])
    assert model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("size", ["64", "96"])
def test_the_odd_plugin_is_fine_tuned_and_predicts(size, twins, photos):
    words = ["--backbone", "twinnet", "--data", str(photos), "--epochs", "1", "--image-size", size]
    done = CliRunner().invoke(main, ["finetune", *words, "--out", "run", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, ["predict", "run", str(photos / "red"), "--format", "json"])
    assert len(json.loads(done.stdout)) == 10


def test_a_size_that_the_odd_plugin_refuses_is_refused_with_its_reason(twins, photos):
    words = ["--backbone", "twinnet", "--data", str(photos), "--image-size", "100"]
    done = CliRunner().invoke(main, ["finetune", *words])
    assert done.exit_code == 2
    assert "it cuts images into squares of 8 pixels" in done.stderr
