"""The odd plugin of docs/plugins.md, and the page's list of checks."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import re
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo
from tests.conftest import write_plugin, zoo_
from zoo import plugins
from zoo.testing import (
    check_backbone,
    check_exporter,
    check_logger,
    check_loss,
    check_source,
    check_transform,
    conformance_suite,
    write_images,
)
from zoo.testing.checks import (
    CHECKS,
    EXPORTER_CHECKS,
    LOGGER_CHECKS,
    LOSS_CHECKS,
    SOURCE_CHECKS,
    TRANSFORM_CHECKS,
)

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
    for name in ("twins/twinnet.py", "twins/zoo_twins.py", "globex/zoo_globex.py"):
        assert (ROOT / "tests" / name).read_text() in PAGE


def test_the_page_lists_every_check_with_its_claim():
    others = (*SOURCE_CHECKS, *EXPORTER_CHECKS, *LOGGER_CHECKS, *LOSS_CHECKS, *TRANSFORM_CHECKS)
    for check in (*CHECKS, *others):
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
@pytest.mark.medium
def test_the_odd_plugin_is_fine_tuned_and_predicts(size, twins, photos):
    words = ["--backbone", "twinnet", "--data", str(photos), "--epochs", "1", "--image-size", size]
    done = zoo_("finetune", *words, "--out", "run", "--device", "cpu")
    done = zoo_("predict", "run", str(photos / "red"), "--format", "json")
    assert len(json.loads(done.stdout)) == 10


def test_a_size_that_the_odd_plugin_refuses_is_refused_with_its_reason(twins, photos):
    words = ["--backbone", "twinnet", "--data", str(photos), "--image-size", "100"]
    done = zoo_("finetune", *words, code=2)
    assert "it cuts images into squares of 8 pixels" in done.stderr


def block(text: str) -> str:
    """The first block of the page's code that has this text."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return next(code for code in blocks if text in code)


def unfit(results) -> list[str]:
    return [f"{r.check}: {r.message}" for r in results if r.status == "failed"]


@pytest.mark.medium
def test_the_documented_source_passes_every_check(install, tmp_path):
    install("zoo-tar", "tar", "acme_documented_tar", block("def zoo_sources"))
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(write_images(tmp_path / "photos"), "")
    data = str(tmp_path / "photos.tar")
    assert unfit(check_source("tar", data)) == []
    done = zoo_("check", "--plugin", "zoo-tar", "--data", data)
    assert done.stdout.startswith("source tar  ")
    # Without images of it there is nothing to check, which is no success.
    zoo_("check", "--plugin", "zoo-tar", code=2)
    with pytest.raises(zoo.ZooError, match=r"\btar .*\bdata\b"):
        conformance_suite(plugin="tar")


def test_the_documented_logger_passes_every_check(install):
    install("zoo-lines", "lines", "acme_documented_lines", block("def zoo_loggers"))
    assert unfit(check_logger("lines")) == []


def test_the_documented_exporter_passes_every_check(install):
    install("zoo-pt2", "pt2", "acme_documented_pt2", block("def zoo_exporters"))
    assert unfit(check_exporter("acme")) == []


def test_the_documented_loss_and_transform_pass_every_check(install):
    install("zoo-own", "own", "acme_documented_own", block("def zoo_losses"))
    assert unfit(check_loss("focal")) == []
    assert unfit(check_transform("grey")) == []


FAMILY = ("regnet_x_400mf", "regnet_x_800mf", "regnet_y_400mf", "regnet_y_800mf")


@pytest.fixture
def globex(install):
    """The plugin of a family, installed."""
    code = (ROOT / "tests" / "globex" / "zoo_globex.py").read_text()
    install("zoo-globex", "globex", "zoo_globex", code)
    return importlib.import_module("zoo_globex")


def test_a_family_of_another_library_is_wrapped_in_under_40_lines(globex):
    assert len(inspect.getsource(globex).splitlines()) < 40
    assert set(plugins.load("globex").backbones) == {f"globex/{name}" for name in FAMILY}


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.medium
def test_a_member_of_the_family_passes_the_checks_of_shapes(name, globex):
    assert unfit(check_backbone(f"globex/{name}", shapes_only=True)) == []


def test_a_member_of_the_family_starts_from_its_published_weights(globex, monkeypatch, tmp_path):
    from torchvision.models import get_model

    state = get_model(FAMILY[0], num_classes=12).state_dict()
    file = tmp_path / "published.safetensors"
    save_file(state, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(globex.NETWORKS, FAMILY[0], digest[:8])
    weights = plugins.get(f"globex/{FAMILY[0]}").weights
    cached = zoo.weights.cache_path(weights)
    cached.parent.mkdir(parents=True)
    file.rename(cached)
    model = zoo.build(f"globex/{FAMILY[0]}", 3)
    assert torch.equal(model.stem[0].weight, state["stem.0.weight"])
    assert model.fc.weight.shape[0] == 3


@pytest.mark.slow
def test_a_member_of_the_family_passes_every_check(globex):
    assert unfit(check_backbone(f"globex/{FAMILY[0]}")) == []
