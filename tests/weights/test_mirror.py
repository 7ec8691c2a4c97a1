"""ZOO_WEIGHTS_MIRROR: a folder or a server with copies of published weights."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import TINY
from zoo import plugins, weights
from zoo.errors import WeightsError


@pytest.fixture
def state(tmp_path):
    """The tiny network's weights, where a mirror in `tmp_path` has them."""
    torch.manual_seed(3)
    made = plugins.build(plugins.get(TINY), None, False).state_dict()
    folder = tmp_path / "timm" / "test_efficientnet.r160_in1k"
    folder.mkdir(parents=True)
    save_file(made, folder / "model.safetensors")
    return made


def equal(loaded, state):
    return all(torch.equal(loaded.state_dict[name], tensor) for name, tensor in state.items())


def test_weights_come_from_the_folder(state, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", str(tmp_path))
    loaded = weights.load(plugins.get(TINY), "pretrained")
    assert equal(loaded, state)
    assert f"the mirror {tmp_path}" in loaded.source
    assert "r160_in1k" in loaded.source
    assert [p.kind for p in weights.places(plugins.get(TINY))] == ["mirror", "own"]


def test_weights_come_from_the_server(state, server, monkeypatch):
    address, hits = server
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", f"{address}/")
    assert equal(weights.load(plugins.get(TINY), "pretrained"), state)
    assert hits == ["/timm/test_efficientnet.r160_in1k/model.safetensors"]
    assert equal(weights.load(plugins.get(TINY), "pretrained"), state)
    assert len(hits) == 1


def test_a_file_of_other_content_than_published_is_an_error(tmp_path, monkeypatch):
    backbone = plugins.get("torchvision/squeezenet1_1")
    name = backbone.weights.url.rpartition("/")[2]
    (tmp_path / name).write_bytes(b"x")
    assert not hashlib.sha256(b"x").hexdigest().startswith(backbone.weights.sha256)
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"{tmp_path}.*SHA-256"):
        weights.load(backbone, "pretrained")


def test_what_the_mirror_lacks_comes_from_its_own_place(state, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", str(tmp_path / "elsewhere"))
    loaded = weights.load(plugins.get("efficientnet_lite0"), "pretrained")
    assert "mirror" not in loaded.source
    places = weights.places(plugins.get(TINY))
    assert [(p.kind, p.file) for p in places] == [("mirror", None), ("own", None)]
