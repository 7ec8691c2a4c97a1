import pytest
import torch
from torch import nn

import zoo
from tests.conftest import TINY
from zoo import plugins
from zoo.backbone import Backbone, Head, Preprocess
from zoo.errors import PluginError, WeightsError
from zoo.models.head import in_head
from zoo.weights import read_state_dict

FACTORIES = """
torchvision: resnet18 resnet34 resnet50 vgg11 vgg11_bn vgg16 vgg16_bn alexnet densenet121
torchvision: mobilenet_v2 mobilenet_v3_small mobilenet_v3_large squeezenet1_1 efficientnet_b0
torchvision: convnext_tiny vit_b_16 swin_t googlenet inception_v3
timm: resnet18 tf_efficientnet_lite0 test_vit deit_tiny_distilled_patch16_224 crossvit_tiny_240
timm: levit_128s dpn48b resnetv2_50 caformer_s18 efficientvit_b0 vit_small_patch14_dinov2
timm: resnet50_clip inception_next_tiny
"""
NAMES = [
    f"{library}/{name}"
    for library, names in (line.split(":") for line in FACTORIES.strip().splitlines())
    for name in names.split()
]


@pytest.mark.parametrize("name", NAMES)
def test_the_new_head_is_all_that_changes(name):
    """The head is what another class count changes, and nothing else is fresh."""
    backbone = plugins.get(name)
    with torch.device("meta"):
        three, seven = plugins.build(backbone, 3, False), plugins.build(backbone, 7, False)
    shapes = {k: v.shape for k, v in three.state_dict().items()}
    changed = {k for k, v in seven.state_dict().items() if v.shape != shapes[k]}
    assert changed == {k for k in shapes if in_head(k, backbone.head_paths)}


@pytest.mark.parametrize(
    "name", ["torchvision/squeezenet1_1", "torchvision/mobilenet_v3_small", "timm/test_vit", TINY]
)
def test_weights_come_over_and_the_head_has_the_asked_classes(name):
    backbone = plugins.get(name)
    original = plugins.build(backbone, None, False).state_dict()
    model = zoo.models.build.build_from(
        backbone, 7, zoo.weights.LoadedWeights(state_dict=original, source="test")
    )
    for key, tensor in model.state_dict().items():
        if not in_head(key, backbone.head_paths):
            assert torch.equal(tensor, original[key])
    height, width = backbone.preprocess.height_width
    for module in (model.eval(), model.train()):
        assert module(torch.rand(2, 3, height, width)).shape == (2, 7)


def test_the_default_backbone_has_its_real_weights():
    """An all-ImageNet check that needs no photo: the original head tells what it was made for."""
    model = plugins.build(plugins.get("efficientnet_lite0"), None, True).eval()
    assert zoo.build("efficientnet_lite0", 3)(torch.rand(1, 3, 224, 224)).shape == (1, 3)
    assert model.classifier.weight.std() > 0.02
    assert model.bn1.running_var.mean() > 0.1


def tiny_net(num_classes: int | None, pretrained: bool) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6), nn.ReLU(), nn.Linear(6, 10))


def backbone_of(build, head="3", **options) -> Backbone:
    return Backbone(
        name="acme/net", build=build, head=head, preprocess=Preprocess(size=8), **options
    )


def test_a_head_that_its_factory_does_not_size_is_replaced_alike():
    model = zoo.build(backbone_of(tiny_net), 4, weights="none")
    assert isinstance(model[3], nn.Linear)
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_a_convolutional_head_is_replaced_alike():
    def build(num_classes, pretrained):
        head = nn.Conv2d(3, 10, (3, 1), stride=2, padding=(1, 0), bias=False)
        return nn.Sequential(head, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    model = zoo.build(backbone_of(build, head="0"), 4, weights="none")
    head = model[0]
    assert (head.kernel_size, head.stride, head.padding) == ((3, 1), (2, 2), (1, 0))
    assert head.bias is None
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 4)


class OddHead(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6, classes))

    def forward(self, x):
        return x @ self.scale


def odd_net(num_classes: int | None, pretrained: bool) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6), OddHead(10))


def test_an_odd_head_needs_the_plugins_own_replace():
    with pytest.raises(PluginError, match=r"'2'.*OddHead"):
        zoo.build(backbone_of(odd_net, head="2"), 4, weights="none")
    # As many classes as inputs must not look like a head that fits already.
    with pytest.raises(PluginError, match="OddHead"):
        zoo.build(backbone_of(odd_net, head="2"), 6, weights="none")
    head = Head(paths=("2",), replace=lambda leaf, n: OddHead(n))
    model = zoo.build(backbone_of(odd_net, head=head), 4, weights="none")
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_a_head_path_takes_whole_components_only():
    assert in_head("head.weight", ("head",))
    assert not in_head("head_dist.weight", ("head",))
    assert not in_head("head", ("head",))


def test_weights_of_another_backbone_list_the_keys_that_do_not_fit(tmp_path):
    from safetensors.torch import save_file

    state = plugins.build(plugins.get(TINY), None, False).state_dict()
    state["extra.weight"] = torch.zeros(1)
    del state["conv_stem.weight"]
    state["bn1.weight"] = torch.zeros(3)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError) as error:
        zoo.build(TINY, 4, weights=str(tmp_path / "odd.safetensors"))
    message = str(error.value)
    assert "missing: conv_stem.weight" in message
    assert "unexpected: extra.weight" in message
    assert "bn1.weight (3,) instead of (24,)" in message


def test_a_runs_weights_serve_another_number_of_classes(run):
    state = read_state_dict(run.path / "model.safetensors")
    model = zoo.build(TINY, 5, weights=str(run.path))
    assert model.get_classifier().out_features == 5
    assert torch.equal(model.conv_stem.weight, state["conv_stem.weight"])
    assert not torch.equal(model.bn1.running_mean, torch.zeros_like(model.bn1.running_mean))


@pytest.mark.parametrize(("init", "spread"), [("normal", 0.01), ("xavier_uniform", None)])
def test_head_initialisation(init, spread):
    torch.manual_seed(0)
    head = zoo.build(TINY, 50, weights="none", head_init=init).get_classifier()
    if init == "normal":
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert (head.bias == 0).all()
    else:
        bound = (6 / (head.in_features + 50)) ** 0.5
        assert 0.9 * bound < head.weight.abs().max().item() <= bound
