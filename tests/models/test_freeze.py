import copy
import random

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import zoo
from zoo import plugins
from zoo.errors import PluginError, RecipeError
from zoo.models.depth import depths
from zoo.models.freeze import freeze_parameters, plan_freezing, train_mode
from zoo.models.optim import make_optimizer


def block(width: int, first: bool) -> nn.Sequential:
    # No bias, which batch norm would cancel: every parameter moves if it trains.
    conv = nn.Conv2d(3 if first else width, width, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.3))


def layered(blocks: int, stages) -> zoo.Backbone:
    """Blocks of convolution, batch norm and dropout, and a head with a dropout before it."""

    def build(num_classes, pretrained):
        head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(4, num_classes or 10))
        layers = [block(4, first=n == 0) for n in range(blocks)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), head)

    return zoo.Backbone(
        name="acme/layered",
        build=build,
        head=f"{blocks + 1}.2",
        preprocess=zoo.Preprocess(size=8),
        stages=stages,
    )


def freezing(backbone, **fields):
    model = plugins.build(backbone, 3, False)
    return plan_freezing(model, depths(model, backbone), backbone, **fields)


FIVE = layered(5, ("0", "1", "2", "3", "4"))
NESTED = layered(3, (("0.0", "0.1"), "1.0", "1.1", "2.0", "2.1"))


@pytest.mark.parametrize(
    ("backbone", "freeze", "frozen"),
    [
        (FIVE, "none", 0),
        (FIVE, 1, 1),
        (FIVE, 5, 5),
        (FIVE, "backbone", 5),
        (FIVE, "2", 3),
        (NESTED, "0", 1),
        (NESTED, "1", 3),
        (NESTED, "1.0", 2),
        (layered(2, ()), "backbone", 1),
    ],
)
def test_what_is_frozen_is_told_by_number_or_by_stage(backbone, freeze, frozen):
    assert freezing(backbone, freeze=freeze).steps == ((1, frozen),)


def test_unfreezing_takes_the_deepest_first_in_parts_as_equal_as_can_be():
    plan = freezing(FIVE, freeze="backbone", unfreeze_epochs=(2, 4))
    assert [plan.frozen(epoch) for epoch in range(1, 6)] == [5, 2, 2, 0, 0]
    assert [plan.trains_from(depth) for depth in range(5)] == [4, 4, 2, 2, 2]
    steps = freezing(FIVE, freeze=3, unfreeze_epochs=(2, 3, 7)).steps
    assert steps == ((1, 3), (2, 2), (3, 1), (7, 0))
    assert freezing(layered(2, ()), freeze="backbone", unfreeze_epochs=(3,)).always == 0


@pytest.mark.parametrize(
    ("backbone", "fields", "kind", "message"),
    [
        (
            FIVE,
            {"freeze": 6},
            RecipeError,
            "freeze = 6: .* 5 .* 0 to 4",
        ),
        (NESTED, {"freeze": "1.7"}, RecipeError, r"1\.7.*: 1\.0, 1\.1"),
        (NESTED, {"freeze": "backbon"}, RecipeError, "backbon'.*: backbone"),
        (FIVE, {"freeze": 2, "unfreeze_epochs": (2, 3, 4)}, RecipeError, r"\b3 .*\b2 "),
        (layered(2, ()), {"freeze": 1}, PluginError, "acme/layered .*stages"),
        (layered(2, ()), {"freeze": "0"}, PluginError, "acme/layered .*stages"),
        (
            layered(2, ()),
            {"freeze": "backbone", "unfreeze_epochs": (2, 3)},
            PluginError,
            r"unfreeze_epoch = \[2, 3\] .*stages",
        ),
        (layered(2, ("0",)), {"freeze": 1}, PluginError, r"acme/layered .*1\.0\.weight"),
    ],
)
def test_what_cannot_be_frozen_is_refused(backbone, fields, kind, message):
    with pytest.raises(kind, match=message):
        freezing(backbone, **fields)


def test_a_modules_mode_follows_what_it_holds_or_what_comes_before_it():
    model = FIVE.build(3, False)
    train_mode(model, FIVE, depths(model, FIVE), frozen=2, batch_norm="train")
    still = {name for name, module in model.named_modules() if not module.training}
    assert still == {f"{n}{m}" for n in (0, 1) for m in ("", ".0", ".1", ".2", ".3")}
    train_mode(model, FIVE, depths(model, FIVE), frozen=5, batch_norm="train")
    assert [name for name, module in model.named_modules() if module.training] == ["6.2"]
    train_mode(model, FIVE, depths(model, FIVE), frozen=0, batch_norm="train")
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("seed", range(20))
def test_of_any_layout_just_what_is_frozen_stands_still_and_gives_predictions_features(seed):
    """Stages at random: blocks whole or layer by layer, neighbours at one depth."""
    draw = random.Random(seed)
    count = draw.randint(2, 6)
    stages, n = [], 0
    while n < count:
        size = draw.choice([1, 1, 2])
        paths = [str(k) for k in range(n, min(n + size, count))]
        if len(paths) == 1 and draw.random() < 0.3:
            stages += [f"{paths[0]}.0", f"{paths[0]}.1"]
        else:
            stages.append(tuple(paths))
        n += size
    backbone = layered(count, tuple(stages))
    torch.manual_seed(seed)
    model = backbone.build(3, False)
    layers = depths(model, backbone)
    frozen = draw.randint(0, len(layers))
    freeze_parameters(model.named_parameters(), layers, frozen)
    train_mode(model, backbone, layers, frozen=frozen, batch_norm="train")
    groups = zoo.parameter_groups(model, backbone, lr=0.1, weight_decay=0.1)
    optimizer = make_optimizer("sgd", groups, momentum=0.9)
    before = copy.deepcopy(model.state_dict())
    images = torch.rand(4, 3, 8, 8)
    held = [k for k in range(count) if all(layers.of[f"{k}.{n}.weight"] < frozen for n in (0, 1))]
    if held:
        upto = model[: max(held) + 1]
        features = upto(images)
        upto_eval = copy.deepcopy(upto).eval()
        assert torch.equal(features, upto_eval(images))
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        moved = not torch.equal(tensor, before[name])
        assert moved == (layers.of.get(name, count * 2) >= frozen), name


@pytest.mark.parametrize("name", ["torchvision/efficientnet_b0", "torchvision/swin_t"])
def test_what_is_frozen_gives_while_training_what_it_gives_in_prediction(name):
    """Both drop whole branches at random in train mode; above the frozen part they still do."""
    backbone = plugins.get(name)
    torch.manual_seed(0)
    model = zoo.build(name, 3, weights="none")
    layers = depths(model, backbone)
    frozen = len(layers) // 2
    outputs = {}
    for depth in (frozen - 1, len(layers) - 1):
        module = model.get_submodule(layers.label(depth))
        module.register_forward_hook(lambda m, i, out, depth=depth: outputs.update({depth: out}))
    images, seen = torch.rand(4, 3, 64, 64), []
    for training in (True, False):
        if training:
            train_mode(model, backbone, layers, frozen=frozen, batch_norm="frozen")
        else:
            model.eval()
        model(images)
        seen.append(dict(outputs))
    assert torch.equal(seen[0][frozen - 1], seen[1][frozen - 1])
    assert not torch.equal(seen[0][len(layers) - 1], seen[1][len(layers) - 1])


@pytest.mark.parametrize(("batch_norm", "moves"), [("frozen", False), ("train", True)])
def test_batch_norm_statistics_of_a_training_backbone(batch_norm, moves):
    backbone = plugins.get("torchvision/resnet18")
    model = zoo.build(backbone, 3, weights="none")
    mean, weight = model.bn1.running_mean.clone(), model.bn1.weight
    train_mode(model, backbone, depths(model, backbone), frozen=0, batch_norm=batch_norm)
    model(torch.rand(4, 3, 64, 64)).sum().backward()
    assert torch.equal(model.bn1.running_mean, mean) != moves
    assert weight.grad is not None
    assert model.training


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_unfreezing_leaves_the_optimizers_state_of_the_others_as_it_was(optimizer_name):
    model = FIVE.build(3, False)
    layers = depths(model, FIVE)
    groups = zoo.parameter_groups(model, FIVE, lr=0.1, weight_decay=0.1)
    optimizer = make_optimizer(optimizer_name, groups, momentum=0.9)
    trainable = list(model.named_parameters())
    held = {name: p for name, p in trainable if layers.of.get(name, 9) < 3}
    others = {name: p for name, p in trainable if name not in held}

    def step():
        optimizer.zero_grad()
        cross_entropy(model(torch.rand(4, 3, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()

    freeze_parameters(trainable, layers, 3)
    start = {name: p.clone() for name, p in held.items()}
    for _ in range(3):
        step()
    assert all(torch.equal(p, start[name]) for name, p in held.items())
    assert {id(p) for p in optimizer.state} == {id(p) for p in others.values()}
    before = copy.deepcopy([optimizer.state[p] for p in others.values()])
    freeze_parameters(trainable, layers, 0)
    after = [optimizer.state[p] for p in others.values()]
    for one, other in zip(before, after, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    step()
    assert {id(p) for p in optimizer.state} == {id(p) for _, p in trainable}
    assert not any(torch.equal(p, start[name]) for name, p in held.items())
    if optimizer_name == "adamw":
        assert {int(optimizer.state[p]["step"]) for p in held.values()} == {1}
        assert {int(optimizer.state[p]["step"]) for p in others.values()} == {4}
