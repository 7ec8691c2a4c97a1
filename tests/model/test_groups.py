import pytest
import torch

import zoo
from tests.conftest import TINY
from zoo import plugins
from zoo.model.freeze import freeze_parameters, train_mode
from zoo.model.optim import lr_factor, make_optimizer, set_learning_rates

NAMES = [
    TINY,
    "timm/levit_128s",
    "torchvision/squeezenet1_1",
    "timm/deit_tiny_distilled_patch16_224",
]


@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_is_in_exactly_one_group(name):
    model = zoo.build(name, 3, weights="none")
    groups = zoo.parameter_groups(model, name, lr=0.1, head_lr_mult=10, weight_decay=0.5)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted({id(p) for p in model.parameters()})
    assert {g["name"]: g["lr"] for g in groups} == {"backbone": 0.1, "head": 1.0}
    assert {g["weight_decay"] for g in groups} == {0.5}


def test_the_head_group_is_the_head_alone():
    model = zoo.build("timm/deit_tiny_distilled_patch16_224", 3, weights="none")
    head = zoo.parameter_groups(model, "timm/deit_tiny_distilled_patch16_224", lr=1)[1]
    assert {id(p) for p in head["params"]} == {
        id(p) for p in (*model.head.parameters(), *model.head_dist.parameters())
    }


def test_a_frozen_backbone_has_no_group():
    model = zoo.build(TINY, 3, weights="none")
    freeze_parameters(model, plugins.get(TINY), "backbone")
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


def test_schedules():
    def factors(schedule):
        return [lr_factor(s, total_steps=12, warmup_steps=2, schedule=schedule) for s in range(12)]

    assert factors("constant") == [pytest.approx(1 / 3), pytest.approx(2 / 3), *[1.0] * 10]
    cosine = factors("cosine")
    assert cosine[2] == 1.0
    assert cosine[7] == pytest.approx(0.5)
    assert cosine[2:] == sorted(cosine[2:], reverse=True)
    assert 0 < cosine[-1] < 0.05


@pytest.mark.parametrize(
    "name", ["torchvision/resnet18", "torchvision/swin_t", TINY, "timm/test_vit"]
)
def test_nothing_of_a_frozen_backbone_moves(name):
    """Batch norm, dropout with stochastic depth, layer norm: no parameter and no buffer changes."""
    backbone = plugins.get(name)
    torch.manual_seed(0)
    model = zoo.build(name, 3, weights="none")
    freeze_parameters(model, backbone, "backbone")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    groups = zoo.parameter_groups(model, backbone, lr=0.1, head_lr_mult=10)
    optimizer = make_optimizer("sgd", groups, momentum=0.9)
    size = 160 if backbone.preprocess.fixed_size else 64
    images = torch.rand(4, 3, size, size)
    for _ in range(2):
        train_mode(model, backbone, freeze="backbone", batch_norm="train")
        torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(k.startswith(tuple(f"{p}." for p in backbone.head_paths)) for k in changed)


@pytest.mark.parametrize(("batch_norm", "moves"), [("frozen", False), ("train", True)])
def test_batch_norm_statistics_of_a_training_backbone(batch_norm, moves):
    backbone = plugins.get("torchvision/resnet18")
    model = zoo.build(backbone, 3, weights="none")
    mean, weight = model.bn1.running_mean.clone(), model.bn1.weight
    train_mode(model, backbone, freeze="none", batch_norm=batch_norm)
    model(torch.rand(4, 3, 64, 64)).sum().backward()
    assert torch.equal(model.bn1.running_mean, mean) != moves
    assert weight.grad is not None
    assert model.training
