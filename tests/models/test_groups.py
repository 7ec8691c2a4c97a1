import pytest
import torch
from torch import nn

import zoo
from tests.conftest import TINY
from zoo import plugins
from zoo.errors import PluginError, RecipeError
from zoo.models.depth import depths
from zoo.models.freeze import freeze_parameters
from zoo.models.optim import lr_factor, make_optimizer, set_learning_rates
from zoo.recipe import make_recipe

DISTILLED = "timm/deit_tiny_distilled_patch16_224"


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return plugins.build(plugins.get(name), 7, False)


def chain(stages=("stem", "blocks.*"), **fields) -> zoo.Backbone:
    """A stem, three blocks and a head, of one layer each."""

    def network(num_classes, pretrained):
        model = nn.Module()
        model.stem = nn.Linear(4, 4)
        model.blocks = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
        model.head = nn.Linear(4, num_classes or 10)
        return model

    return zoo.Backbone(
        **{
            "name": "acme/chain",
            "build": network,
            "head": "head",
            "preprocess": zoo.Preprocess(size=8),
            "stages": stages,
            **fields,
        }
    )


@pytest.mark.parametrize("name", [TINY, "timm/levit_128s", "torchvision/squeezenet1_1", DISTILLED])
def test_each_parameter_is_in_exactly_one_group(name):
    model = zoo.build(name, 3, weights="none")
    groups = zoo.parameter_groups(model, name, lr=0.1, head_lr_mult=10, weight_decay=0.5)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted({id(p) for p in model.parameters()})
    assert {g["name"]: (g["lr"], g["weight_decay"]) for g in groups} == {
        "backbone": (0.1, 0.5),
        "backbone (no decay)": (0.1, 0.0),
        "head": (1.0, 0.5),
        "head (no decay)": (1.0, 0.0),
    }


def test_the_head_group_is_the_head_alone():
    model = zoo.build(DISTILLED, 3, weights="none")
    head = zoo.parameter_groups(model, DISTILLED, lr=1)[1]
    assert {id(p) for p in head["params"]} == {
        id(p) for p in (*model.head.parameters(), *model.head_dist.parameters())
    }


def test_a_frozen_backbone_has_no_group():
    model = zoo.build(TINY, 3, weights="none")
    layers = depths(model, plugins.get(TINY))
    freeze_parameters(model.named_parameters(), layers, len(layers))
    assert [g["name"] for g in zoo.parameter_groups(model, TINY, lr=1)] == ["head"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_rates_reach_the_optimizer_and_follow_the_schedule(optimizer):
    model = zoo.build(TINY, 3, weights="none")
    groups = zoo.parameter_groups(model, TINY, lr=0.1, head_lr_mult=10)
    made = make_optimizer(optimizer, groups, momentum=0.9)
    set_learning_rates(made, 0.5)
    assert [g["lr"] for g in made.param_groups] == [0.05, 0.5]
    set_learning_rates(made, 1.0)
    assert [g["lr"] for g in made.param_groups] == [0.1, 1.0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_layer_decay_holds_at_every_step_of_every_schedule(optimizer, schedule):
    backbone = chain()
    groups = zoo.parameter_groups(
        backbone.build(3, False), backbone, lr=0.1, head_lr_mult=10, layer_decay=0.5
    )
    assert [g["name"] for g in groups] == [*(f"backbone {d}" for d in range(4)), "head"]
    made = make_optimizer(optimizer, groups, momentum=0.9)
    for step in range(6):
        factor = lr_factor(step, total_steps=6, warmup_steps=2, schedule=schedule)
        set_learning_rates(made, factor)
        rates = [g["lr"] / factor for g in made.param_groups]
        assert rates == pytest.approx([0.0125, 0.025, 0.05, 0.1, 1.0])


def test_layer_decay_holds_under_torchs_own_optimizers_and_schedulers():
    backbone = chain()
    model = backbone.build(3, False)
    groups = zoo.parameter_groups(model, backbone, lr=0.1, layer_decay=0.5)
    optimizer = torch.optim.RMSprop(groups)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    rates = [g["lr"] for g in optimizer.param_groups]
    assert rates == pytest.approx([0.000125, 0.00025, 0.0005, 0.001, 0.001])


def test_the_neck_is_the_deepest_depth():
    def build(num_classes, pretrained):
        model = chain().build(num_classes, pretrained)
        model.norm = nn.LayerNorm(4)
        return model

    backbone = chain(build=build, head=zoo.Head(paths=("head",), neck=("norm",)))
    model = backbone.build(3, False)
    groups = zoo.parameter_groups(model, backbone, lr=1.0, layer_decay=0.5)
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    assert (rate[id(model.norm.weight)], rate[id(model.blocks[2].weight)]) == (1.0, 0.5)


def test_biases_norms_and_layer_scales_do_not_decay():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.wide_norm = nn.LayerNorm((4, 2, 2))
            self.layer_scale = nn.Parameter(torch.ones(4, 1, 1))
            self.token = nn.Parameter(torch.ones(1, 1, 4))
            self.head = nn.Linear(4, 3)

    backbone = chain(build=lambda n, p: Odd(), stages=())
    model = Odd()
    names = {id(p): name for name, p in model.named_parameters()}
    per_channel = {"conv.bias", "wide_norm.weight", "wide_norm.bias", "layer_scale", "head.bias"}
    for wd_on_norms, spared in ((False, per_channel), (True, set())):
        groups = zoo.parameter_groups(
            model, backbone, lr=1, weight_decay=0.1, wd_on_norms=wd_on_norms
        )
        without = {names[id(p)] for g in groups for p in g["params"] if g["weight_decay"] == 0}
        assert without == spared


@pytest.mark.parametrize("name", ["torchvision/convnext_tiny", "torchvision/swin_t", TINY])
def test_only_matrices_and_kernels_decay(name):
    groups = zoo.parameter_groups(on_meta(name), name, lr=1, weight_decay=0.1)
    assert {g["weight_decay"] for g in groups} == {0.0, 0.1}
    for group in groups:
        for parameter in group["params"]:
            per_channel = parameter.numel() == parameter.shape[0]
            assert per_channel == (group["weight_decay"] == 0)


def test_a_tied_weight_counts_once_where_its_first_name_stands():
    def build(num_classes, pretrained):
        model = chain().build(num_classes, pretrained)
        model.blocks[2].weight = model.stem.weight
        return model

    backbone = chain(build=build)
    model = backbone.build(3, False)
    groups = zoo.parameter_groups(model, backbone, lr=1.0, layer_decay=0.5)
    holders = [g["depth"] for g in groups for p in g["params"] if p is model.stem.weight]
    assert holders == [0]


def test_layer_decay_without_stages_names_the_backbone_and_what_to_declare():
    backbone = chain(stages=())
    model = backbone.build(3, False)
    with pytest.raises(PluginError, match=r"acme/chain .*stages=\.\.\."):
        zoo.parameter_groups(model, backbone, lr=1, layer_decay=0.9)
    assert zoo.parameter_groups(model, backbone, lr=1)


def test_layer_decay_with_a_parameter_that_no_stage_covers_names_it():
    backbone = chain(stages=("blocks.*",))
    model = backbone.build(3, False)
    with pytest.raises(PluginError, match=r"acme/chain .*stem\.weight, stem\.bias"):
        zoo.parameter_groups(model, backbone, lr=1, layer_decay=0.9)


@pytest.mark.parametrize(
    "name",
    [
        "timm/vit_base_patch16_224",
        "timm/convnext_tiny",
        "timm/swin_tiny_patch4_window7_224",
        "timm/resnet50",
    ],
)
def test_rates_and_decay_are_timms_parameter_by_parameter(name):
    from timm.optim._param_groups import param_groups_layer_decay

    model, backbone = on_meta(name), plugins.get(name)
    head = {id(p) for path in backbone.head_paths for p in model.get_submodule(path).parameters()}
    ours = zoo.parameter_groups(model, backbone, lr=3e-4, weight_decay=0.05, layer_decay=0.75)
    theirs = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.75)
    settings = []
    for groups, rate in ((ours, "lr"), (theirs, "lr_scale")):
        of = {id(p): (g[rate], g["weight_decay"]) for g in groups for p in g["params"]}
        deepest = max(r for key, (r, _) in of.items() if key not in head)
        settings.append({k: (r / deepest, decay) for k, (r, decay) in of.items() if k not in head})
    mine, timms = settings
    assert len({rate for rate, _ in mine.values()}) > 4
    for parameter_name, parameter in model.named_parameters():
        if id(parameter) not in head:
            assert mine[id(parameter)] == pytest.approx(timms[id(parameter)]), parameter_name


def test_schedules():
    def factors(schedule):
        return [lr_factor(s, total_steps=12, warmup_steps=2, schedule=schedule) for s in range(12)]

    assert factors("constant") == [pytest.approx(1 / 3), pytest.approx(2 / 3), *[1.0] * 10]
    cosine = factors("cosine")
    assert cosine[2] == 1.0
    assert cosine[7] == pytest.approx(0.5)
    assert cosine[2:] == sorted(cosine[2:], reverse=True)
    assert 0 < cosine[-1] < 0.05
    linear = factors("linear")
    assert linear[2:] == [pytest.approx(1 - n / 10) for n in range(10)]


@pytest.mark.parametrize(
    ("total", "warmup", "start"), [(12, 3, None), (40, 12, None), (17, 5, 0.1), (10, 10, None)]
)
def test_one_cycle_is_that_of_torch(total, warmup, start):
    rates = [0.4, 0.004]
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in rates]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, rates, strict=True)]
    optimizer = torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=rates,
        total_steps=total,
        pct_start=warmup / total,
        div_factor=1 / (start or 1 / 25),
        cycle_momentum=False,
    )
    for step in range(total):
        factor = lr_factor(
            step,
            total_steps=total,
            warmup_steps=warmup,
            schedule="one-cycle",
            warmup_start=start,
        )
        assert [factor * lr for lr in rates] == pytest.approx(scheduler.get_last_lr(), abs=1e-12)
        if step < total - 1:
            optimizer.step()
            scheduler.step()


def test_one_cycle_without_a_warm_up_starts_at_the_full_rate():
    for warmup in (0, 1):
        found = [
            lr_factor(step, total_steps=9, warmup_steps=warmup, schedule="one-cycle")
            for step in range(9)
        ]
        assert found[0] == 1.0
        assert found == sorted(found, reverse=True)
        assert found[-1] == pytest.approx(1e-4 / 25)
    assert lr_factor(0, total_steps=1, warmup_steps=1, schedule="one-cycle") == 1.0
    with pytest.raises(RecipeError):
        make_recipe(schedule="one-cycle", warmup_prefix=False)


def test_schedules_of_a_power_and_other_warm_ups():
    def factors(schedule, **more):
        return [
            lr_factor(s, total_steps=12, warmup_steps=2, schedule=schedule, **more)
            for s in range(13)
        ]

    assert factors("polynomial", power=2.0)[7] == pytest.approx(0.25)
    exponential = factors("exponential", power=2.0)
    assert (exponential[2], exponential[7]) == (1.0, pytest.approx(0.1))
    assert exponential[12] == pytest.approx(0.01)
    assert factors("linear", warmup_start=0.0)[:3] == [0.0, 0.5, 1.0]
    assert factors("linear", warmup_start=0.2)[:2] == [pytest.approx(0.2), pytest.approx(0.6)]
    whole = factors("linear", warmup_start=0.0, warmup_prefix=False)
    assert whole[2:] == [pytest.approx(1 - n / 12) for n in range(2, 13)]
