"""Ported recipes have the parameter groups and learning rates of the libraries they come from."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from torch import nn

import zoo
from zoo import plugins
from zoo.models.optim import check_optimizer, lr_factor, make_optimizer, set_learning_rates
from zoo.recipe import Recipe, make_recipe

#: Steps of an epoch.
STEPS = 4

TIMM = ["timm-vit-inat21", "timm-eva02-inat21", "timm-resnet50-plants"]


def factors(recipe: Recipe) -> list[float]:
    """zoo's factor at each step of the run."""
    return [
        lr_factor(
            step,
            total_steps=STEPS * recipe.epochs,
            warmup_steps=round(STEPS * recipe.warmup_epochs),
            schedule=recipe.schedule,
            power=recipe.schedule_power,
            warmup_start=recipe.warmup_start,
            warmup_prefix=recipe.warmup_prefix,
        )
        for step in range(STEPS * recipe.epochs)
    ]


def of_head(recipe: Recipe) -> float:
    """The head's learning rate, which is what timm's script is given."""
    return recipe.lr * recipe.head_lr_mult


def groups_of(model: nn.Module, recipe: Recipe) -> list[dict]:
    return zoo.parameter_groups(
        model,
        recipe.backbone,
        lr=recipe.lr,
        head_lr_mult=recipe.head_lr_mult,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        wd_on_norms=recipe.wd_on_norms,
    )


@pytest.mark.medium
@pytest.mark.parametrize("name", TIMM)
def test_parameter_groups_are_those_of_timms_script(name):
    recipe = make_recipe(name)
    with torch.device("meta"):
        model = timm.create_model(recipe.backbone.partition("/")[2], num_classes=7)
    kept = getattr(model, "no_weight_decay", set)()
    if recipe.layer_decay == 1:
        theirs = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=kept)
    else:
        theirs = param_groups_layer_decay(
            model,
            recipe.weight_decay,
            no_weight_decay_list=kept,
            layer_decay=recipe.layer_decay,
        )
    expected = {
        id(p): (of_head(recipe) * group.get("lr_scale", 1.0), group["weight_decay"])
        for group in theirs
        for p in group["params"]
    }
    ours = {
        id(p): (g["lr"], g["weight_decay"]) for g in groups_of(model, recipe) for p in g["params"]
    }
    assert ours.keys() == expected.keys()
    differing = set()
    for parameter, p in model.named_parameters():
        (lr, decay), (their_lr, their_decay) = ours[id(p)], expected[id(p)]
        assert lr == pytest.approx(their_lr), parameter
        if decay != their_decay:
            differing.add(parameter)
    # The difference that docs/coming-from.md states.
    assert differing == ({"pos_embed", "cls_token"} if kept else set())


@pytest.mark.medium
@pytest.mark.parametrize("name", TIMM)
def test_learning_rates_are_those_of_timms_scheduler(name):
    recipe = make_recipe(name)
    each_update = name != "timm-resnet50-plants"  # Its command has no --sched-on-updates.
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    scales = (1.0, recipe.layer_decay)
    theirs = torch.optim.SGD(
        [
            {"params": [p], "lr": of_head(recipe), "lr_scale": s}
            for p, s in zip(parameters, scales, strict=True)
        ]
    )
    scheduler, _ = create_scheduler_v2(
        theirs,
        "cosine",
        num_epochs=recipe.epochs,
        warmup_epochs=int(recipe.warmup_epochs),
        warmup_lr=recipe.warmup_start * of_head(recipe),
        step_on_epochs=not each_update,
        updates_per_epoch=STEPS,
    )
    groups = [
        {"params": [p], "lr": of_head(recipe) * s, "weight_decay": 0.0}
        for p, s in zip(parameters, scales, strict=True)
    ]
    options = check_optimizer(recipe.optimizer, recipe.optimizer_options, momentum=recipe.momentum)
    ours = make_optimizer(recipe.optimizer, groups, momentum=recipe.momentum, options=options)
    for step, factor in enumerate(factors(recipe)):
        if each_update:
            scheduler.step_update(num_updates=step)
        elif step % STEPS:
            continue  # timm keeps the rate of the first step of the epoch.
        else:
            scheduler.step(step // STEPS)
        set_learning_rates(ours, factor)
        mine = [group["lr"] for group in ours.param_groups]
        assert mine == pytest.approx([group["lr"] for group in theirs.param_groups]), step


@pytest.mark.medium
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_learning_rates_are_those_of_transformers(schedule):
    transformers = pytest.importorskip("transformers")
    recipe = make_recipe("hf-guide", schedule=schedule, warmup_epochs=0.5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler = getattr(transformers, f"get_{schedule}_schedule_with_warmup")(
        optimizer, num_warmup_steps=STEPS // 2, num_training_steps=STEPS * recipe.epochs
    )
    for factor in factors(recipe):
        assert recipe.lr * factor == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_the_guides_groups_are_the_trainers_without_weight_decay():
    recipe = make_recipe("hf-guide")
    model = zoo.build("timm/test_vit", 3, weights="none")
    groups = zoo.parameter_groups(
        model,
        plugins.get("timm/test_vit"),
        lr=recipe.lr,
        head_lr_mult=recipe.head_lr_mult,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
    )
    assert {(g["lr"], g["weight_decay"]) for g in groups} == {(5e-5, 0.0)}
    made = make_optimizer(recipe.optimizer, groups, momentum=recipe.momentum)
    assert (made.defaults["betas"], made.defaults["eps"]) == ((0.9, 0.999), 1e-8)
