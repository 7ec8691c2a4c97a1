"""Every backbone of zoo's own plugins: its head and its depths, held against the networks."""

from collections import Counter

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torchvision import models

from tests.backbones.meta import no_values
from tests.backbones.sweep import ONE_PER_CLASS
from zoo import plugins
from zoo.errors import UnknownBackboneError
from zoo.models.depth import Depths, depths
from zoo.models.head import in_head
from zoo.testing import check_backbone
from zoo.testing.subject import Subject
from zoo.training.flops import flops_per_image

TORCHVISION = [f"torchvision/{name}" for name in models.list_models(module=models)]
TIMM = sorted(plugins.load("timm").backbones)


def model_and_depths(name):
    backbone = plugins.get(name)
    with no_values():
        model = plugins.build(backbone, 7, False)
    return model, depths(model, backbone), backbone


def check(name):
    backbone = plugins.get(name)
    with no_values():
        five, seven = plugins.build(backbone, 5, False), plugins.build(backbone, 7, False)
    shapes = {k: v.shape for k, v in five.state_dict().items()}
    changed = {k for k, v in seven.state_dict().items() if v.shape != shapes[k]}
    assert changed == {k for k in shapes if in_head(k, backbone.head_paths)}
    found = depths(seven, backbone)
    assert found.declared
    assert found.uncovered == ()
    assert set(found.of.values()) == set(range(len(found)))
    assert len(found) > 1
    return seven


def test_the_list_of_classes_is_whole():
    """A timm that brings a new class wants it in one_per_class.txt."""
    annotated = {
        timm.model_entrypoint(name.removeprefix("timm/")).__annotations__.get("return")
        for name in TIMM
    }
    classes = {f"{c.__module__}.{c.__name__}" for c in annotated if isinstance(c, type)}
    listed = {f"timm.models.{name}" for name in ONE_PER_CLASS.values()}
    assert classes <= listed


@pytest.mark.parametrize("plugin", ["timm", "transformers"])
def test_each_network_states_its_costs(plugin):
    """A library that brings new networks wants them in networks.csv: bench/networks.py."""
    declared = plugins.load(plugin).backbones.values()
    assert [b.name for b in declared if b.parameters is None or b.macs is None] == []


@pytest.mark.parametrize(
    "name",
    ["torchvision/swin_v2_t", "timm/test_vit", "transformers/bit", "zoo/efficientnet_lite0"],
)
def test_stated_costs_are_those_of_the_network(name):
    backbone = plugins.get(name)
    subject = Subject(backbone, torch.device("meta"))
    model = subject.original.eval()
    assert backbone.parameters == sum(p.numel() for p in model.parameters())
    # torchvision publishes billions with three decimals.
    macs = flops_per_image(model, subject.images()[:1]) / 2
    assert backbone.macs == pytest.approx(macs, abs=500_000 if "torchvision" in name else 0)


def test_costs_are_of_the_declared_input_size_only():
    other = plugins.get("timm/test_vit").resized(192)
    assert (other.parameters, other.macs) == (None, None)


#: All others pass the same checks in the sweep of test_sweep.py.
@pytest.mark.parametrize("name", [name for name in ONE_PER_CLASS if name.startswith("test_")])
@pytest.mark.medium
def test_timms_test_networks_pass_every_check_of_shapes(name):
    results = check_backbone(f"timm/{name}", shapes_only=True)
    assert {r.check: r.message for r in results if r.status == "failed"} == {}
    assert sum(r.status == "passed" for r in results) >= 14


@pytest.mark.slow
def test_each_network_of_the_list_is_of_the_class_that_it_stands_for():
    for name, listed in ONE_PER_CLASS.items():
        with no_values():
            model = plugins.build(plugins.get(f"timm/{name}"), 7, False)
        assert f"{type(model).__module__}.{type(model).__name__}" == f"timm.models.{listed}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"timm/{name}" for name in ONE_PER_CLASS), *TORCHVISION])
def test_small_ones_pass_every_check_with_values_too(name):
    backbone = plugins.get(name)
    with no_values():
        parameters = sum(p.numel() for p in plugins.build(backbone, 7, False).parameters())
    if parameters > 16e6 or max(backbone.preprocess.height_width) > 288:
        pytest.skip("too large to compute with here; its shapes are checked")
    results = check_backbone(backbone)
    assert {r.check: r.message for r in results if r.status == "failed"} == {}
    assert sum(r.status == "passed" for r in results) >= 22


#: One of each family.
QUICK_TORCHVISION = {
    f"torchvision/{name}"
    for names in (
        "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet",
        "inception_v3 maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_y_400mf",
        "resnet18 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0 swin_t swin_v2_t vgg11",
        "vit_b_16 wide_resnet50_2",
    )
    for name in names.split()
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK_TORCHVISION else pytest.mark.slow)
        for name in TORCHVISION
    ],
)
def test_head_and_depths_of_torchvision(name):
    check(name)


def test_all_of_torchvision_and_timm_is_declared():
    assert sorted(plugins.load("torchvision").backbones) == sorted(TORCHVISION)
    plugin = plugins.load("timm")
    names = {f"timm/{name}" for name in timm.list_models()}
    assert names == {*plugin.backbones, *plugin.left_out}


@pytest.mark.slow
def test_what_is_left_out_has_no_classifier_and_says_so():
    left_out = plugins.load("timm").left_out
    assert len(left_out) >= 7
    for full_name, left in left_out.items():
        with no_values():
            model = timm.create_model(full_name.removeprefix("timm/"))
        assert not hasattr(model, "get_classifier")
        assert left.reason == (
            f"a pure encoder ({type(model).__name__}): timm gives it no classifier"
        )
    with pytest.raises(UnknownBackboneError, match=r"gemma4_vit_167m_enc .*\(Gemma4Vit"):
        plugins.get("gemma4_vit_167m_enc")


@pytest.mark.parametrize("name", ["levit_384_s8", "levit_conv_384_s8"])
def test_a_classifier_that_timm_declares_by_half_is_mended_for_timm_too(name):
    backbone = plugins.get(f"timm/{name}")
    assert backbone.head_paths == ("head.linear", "head_dist.linear")
    config = backbone.files(("a", "b"), backbone.preprocess)["config.json"]
    assert config["pretrained_cfg"]["classifier"] == ["head.linear", "head_dist.linear"]
    check(backbone.name)


def timms_depths(model) -> dict[str, int]:
    """As timm's layer-wise learning rates have them: rate = decay ** (deepest - depth)."""
    names = {id(p): n for n, p in model.named_parameters()}
    scales = {
        names[id(p)]: group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=0.5)
        for p in group["params"]
    }
    order = sorted(set(scales.values()))
    return {name: order.index(scale) for name, scale in scales.items()}


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "vit_base_patch16_224",
        "convnext_tiny",
        "swin_tiny_patch4_window7_224",
        "vgg11",
        "densenet121",
        "coat_tiny",  # tied parameters
        "cait_xxs24_224",  # a function for a matcher
        "cs3darknet_focus_s",
        "nasnetalarge",
    ],
)
def test_depths_are_those_of_timms_layer_decay(name):
    model, found, backbone = model_and_depths(f"timm/{name}")
    timms = {
        k: depth for k, depth in timms_depths(model).items() if not in_head(k, backbone.head_paths)
    }
    assert {k: found.of[k] for k in timms} == timms


@pytest.mark.parametrize(
    ("name", "stem", "second", "last"),
    [
        ("poolformer_s12", ("stem",), ("stages.0.blocks.0",), ("head.norm",)),
        (
            "pit_ti_224",
            ("pos_embed", "cls_token", "patch_embed"),
            ("transformers.0.blocks.0",),
            ("transformers.2.blocks.3", "norm"),
        ),
        ("csatv2", ("stem_dct",), ("stages.0.0",), ("head.norm",)),
    ],
)
def test_depths_of_classes_without_a_matcher_are_as_fine(name, stem, second, last):
    _, found, _ = model_and_depths(f"timm/{name}")
    assert found.stages[:2] == (stem, second)
    assert found.stages[-1] == last


def test_learned_positions_that_every_block_reads_are_of_the_stem():
    for name, path in [
        ("vit_small_patch16_rope_mixed_224", "rope"),
        ("vit_srelpos_small_patch16_224", "shared_rel_pos"),
    ]:
        _, found, _ = model_and_depths(f"timm/{name}")
        assert any(path in p.split(".") for p in found.stages[0])


def test_downsampling_goes_with_the_block_after_it():
    for name, together in [
        ("timm/caformer_s18", ("stages.1.downsample", "stages.1.blocks.0")),
        ("timm/pit_ti_224", ("transformers.1.pool", "transformers.1.blocks.0")),
        ("timm/csatv2", ("stages.1.0", "stages.1.1")),
        ("timm/convnext_tiny", ("stages.1.downsample", "stages.1.blocks.0")),
        ("torchvision/convnext_tiny", ("features.2", "features.3.0")),
        ("torchvision/swin_t", ("features.2", "features.3.0")),
    ]:
        assert together in model_and_depths(name)[1].stages


def sizes(model, found: Depths) -> list[Counter]:
    """For each depth, how many parameters of which size it holds."""
    counts = [Counter() for _ in found.stages]
    for name, parameter in model.named_parameters():
        if name in found.of:
            counts[found.of[name]][parameter.numel()] += 1
    return counts


@pytest.mark.parametrize(
    ("torchvisions", "timms"),
    [
        ("resnet18", "resnet18"),
        ("resnet50", "resnet50"),
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("wide_resnet50_2", "wide_resnet50_2"),
        ("vit_b_16", "vit_base_patch16_224"),
        ("convnext_tiny", "convnext_tiny"),
        ("swin_t", "swin_tiny_patch4_window7_224"),
        ("densenet121", "densenet121"),
        ("vgg16", "vgg16"),
        ("efficientnet_b0", "efficientnet_b0"),
        ("efficientnet_v2_s", "tf_efficientnetv2_s"),
        ("mobilenet_v2", "mobilenetv2_100"),
        ("mobilenet_v3_large", "mobilenetv3_large_100"),
        ("mobilenet_v3_small", "mobilenetv3_small_100"),
        ("mnasnet1_0", "mnasnet_100"),
        ("regnet_y_400mf", "regnety_004"),
        # Left out, for timm's are finer: in vgg16_bn each norm is a depth. For timm builds
        # another network: swin_v2_t (its attention biases), maxvit_t (its stem), regnet_x_400mf
        # (its widths), inception_v3 (without the auxiliary head). There is no alexnet, googlenet,
        # shufflenet_v2 or squeezenet in timm.
    ],
)
def test_depths_of_torchvision_are_timms(torchvisions, timms):
    model, found, backbone = model_and_depths(f"torchvision/{torchvisions}")
    other, others, _ = model_and_depths(f"timm/{timms}")
    assert sizes(model, found) == sizes(other, others)
    if torchvisions.startswith("res"):
        own_names = {n for n in found.of if not in_head(n, backbone.head_paths)}
        assert {n: found.of[n] for n in own_names} == {n: others.of[n] for n in own_names}


def test_a_norm_beside_its_convolution_has_its_depth():
    _, found, _ = model_and_depths("torchvision/vgg11_bn")
    assert found.stages[0] == ("features.0", "features.1")
    assert len(found) == len(model_and_depths("torchvision/vgg11")[1])


@pytest.mark.parametrize("name", [n for n in TIMM if n.startswith("timm/vit_") and "_resnet" in n])
def test_a_backbone_within_a_backbone_is_not_fetched_without_being_asked(name, monkeypatch):
    def closed(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr("socket.socket.connect", closed)
    monkeypatch.setattr("socket.getaddrinfo", closed)
    backbone = plugins.get(name)
    with no_values():
        for num_classes in (None, 7):
            plugins.build(backbone, num_classes, False)
