"""Weights in several files: `model.safetensors.index.json` and the files that it names."""

import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

import zoo
from tests.weights.test_checkpoints import dry_run, publish
from zoo import plugins
from zoo.errors import WeightsError
from zoo.weights import load, read_state_dict
from zoo.weights.retrieval import locate
from zoo.weights.verification import verify

INDEX = "model.safetensors.index.json"


def split(folder: Path) -> Path:
    """Split the weights of a checkpoint into three files or more, as transformers does."""
    whole = folder / "model.safetensors"
    state_dict = load_file(whole)
    whole.unlink()
    total = sum(t.numel() * t.element_size() for t in state_dict.values())
    save_torch_state_dict(state_dict, folder, max_shard_size=total // 3)
    assert len(shards(folder)) > 2
    return folder


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def change_index(folder: Path, change) -> None:
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


def test_the_weights_of_a_folder_are_those_of_all_files(tmp_path):
    folder = publish(tmp_path / "mine")
    whole = load_file(folder / "model.safetensors")
    split(folder)
    found = load(plugins.get(f"local-dir:{folder}"), "pretrained").state_dict
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    assert read_state_dict(folder / INDEX).keys() == whole.keys()


def test_the_files_of_the_hub_are_downloaded_together_and_verified(repositories):
    folder = split(publish(repositories / "acme" / "large"))
    backbone = plugins.get("hf-hub:acme/large")
    assert locate(backbone.weights) is None
    model = zoo.build(backbone, 2)
    original = timm.create_model("test_resnet", num_classes=12)
    original.load_state_dict(read_state_dict(folder / INDEX))
    assert torch.equal(model.conv1[0].weight, original.conv1[0].weight)
    cached = locate(backbone.weights)
    assert cached is not None
    assert [verdict.state for verdict in verify(backbone)] == ["ok"]
    last = shards(cached.parent)[0].resolve()
    last.write_bytes(last.read_bytes()[:-1] + b"x")
    assert [verdict.state for verdict in verify(backbone)] == ["damaged"]
    shards(cached.parent)[0].unlink()
    assert locate(backbone.weights) is None  # It would be fetched again.


def first(folder: Path) -> str:
    return shards(folder)[0].name


def without_a_tensor(folder: Path) -> None:
    path = shards(folder)[0]
    state_dict = load_file(path)
    state_dict.pop(min(state_dict))
    save_file(state_dict, path)


def with_a_tensor_twice(folder: Path) -> None:
    one, other = (load_file(path) for path in shards(folder)[:2])
    save_file({**other, **dict(list(one.items())[:1])}, shards(folder)[1])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: shards(f)[0].unlink(), "no such file beside it"),
        (without_a_tensor, "does not hold the tensors"),
        (with_a_tensor_twice, "does not hold the tensors"),
        (lambda f: change_index(f, lambda m: m.update(x="../x.safetensors")), "beside it"),
        (lambda f: change_index(f, lambda m: m.update(x="/etc/x.safetensors")), "beside it"),
        (lambda f: change_index(f, lambda m: m.update(x="pytorch_model.bin")), "beside it"),
        (lambda f: change_index(f, lambda m: m.update(x=5)), "beside it"),
        (lambda f: change_index(f, lambda m: m.clear()), "names no tensors"),
        (lambda f: (f / INDEX).write_text("{}"), "not a readable index"),
        (lambda f: (f / INDEX).write_text("[1"), "not a readable index"),
    ],
)
def test_a_damaged_index_or_file_is_one_message(tmp_path, spoil, said):
    folder = split(publish(tmp_path / "mine"))
    spoil(folder)
    result = dry_run(f"local-dir:{folder}", code=2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("run").exists()


def test_a_file_that_the_hub_lacks_is_named(repositories):
    folder = split(publish(repositories / "acme" / "large"))
    name = first(folder)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=name):
        load(plugins.get("hf-hub:acme/large"), "pretrained")
