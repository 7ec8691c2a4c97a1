"""Optimizers by name: timm's, their options, and a state that is saved and restored to the bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from timm.optim import list_optimizers
from torch import nn

from tests.conftest import QUICK, zoo_
from zoo.errors import RecipeError
from zoo.models.optim import UNUSABLE, check_optimizer, make_optimizer, optimizer_names
from zoo.recipe import Recipe, change, dump_recipe, make_recipe
from zoo.training.snapshot import Snapshot, forget, restore, take
from zoo.training.state import TrainingState


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Flatten(), nn.Linear(20 * 4, 18)
    )


def optimizer_of(name, model):
    decays = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"name": "backbone", "params": decays, "lr": 0.01, "weight_decay": 0.1},
        {"name": "backbone (no decay)", "params": others, "lr": 0.005, "weight_decay": 0.0},
    ]
    return make_optimizer(name, groups, momentum=0.9)


def step(model, optimizer, steps):
    for n in steps:
        generator = torch.Generator().manual_seed(n)
        loss = model(torch.randn(4, 3, 4, 4, generator=generator)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def saved(model, optimizer):
    """A snapshot that has been through a file."""
    snapshot = take(model, TrainingState(), optimizer)
    tensors = {name: tensor.clone() for name, tensor in snapshot.to_tensors().items()}
    return Snapshot.from_parts(load(save(tensors)), snapshot.about())


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_every_optimizer_of_timm_is_usable_or_says_why_not():
    left_out = {n for n in list_optimizers() if n.startswith(tuple(UNUSABLE))}
    assert set(optimizer_names()) == set(list_optimizers()) - left_out
    assert optimizer_names()[:2] == ["adamw", "sgd"]
    assert {"lion", "lamb", "nadamw", "adan", "muon", "adafactorbv"} <= set(optimizer_names())
    for name in left_out:
        with pytest.raises(RecipeError):
            check_optimizer(name, {}, momentum=0.9)


@pytest.mark.medium
def test_every_optimizer_goes_on_from_a_file_to_the_same_bits():
    wrong = []
    for name in optimizer_names():
        model, other = network(0), network(1)
        optimizer, again = optimizer_of(name, model), optimizer_of(name, other)
        step(model, optimizer, range(3))
        snapshot = saved(model, optimizer)
        step(other, again, range(7, 9))  # What it has learnt by itself is replaced.
        restore(snapshot, other, TrainingState(), again)
        for trained, its in ((model, optimizer), (other, again)):
            step(trained, its, range(3, 6))
        if not same(model, other):
            wrong.append(name)
    assert wrong == []


@pytest.mark.medium
def test_every_optimizer_starts_again_as_if_it_were_new():
    wrong = []
    for name in optimizer_names():
        model, other = network(0), network(0)
        optimizer = optimizer_of(name, model)
        step(model, optimizer, range(2))
        forget(optimizer)
        model.load_state_dict(other.state_dict())
        step(model, optimizer, range(2, 4))
        step(other, optimizer_of(name, other), range(2, 4))
        if not same(model, other):
            wrong.append(name)
    assert wrong == []


def test_adamw_and_sgd_are_torchs_own():
    sgd, adamw = (optimizer_of(name, network(0)) for name in ("sgd", "adamw"))
    assert (type(sgd), type(adamw)) == (torch.optim.SGD, torch.optim.AdamW)
    assert not sgd.defaults["nesterov"]
    assert adamw.defaults["fused"]


def test_options_reach_the_optimizer_as_values_of_their_types():
    options = check_optimizer("lion", {"betas": (0.95, 0.98), "caution": True}, momentum=0.9)
    group = {"params": list(network(0).parameters()), "lr": 0.1, "weight_decay": 0.0}
    made = make_optimizer("lion", [group], momentum=0.9, options=options)
    assert (made.defaults["betas"], made.defaults["caution"]) == ((0.95, 0.98), True)
    assert check_optimizer("adamw", {"eps": 1}, momentum=0.9) == {"eps": 1.0}


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("lion", {"beta": (0.9, 0.99)}, "betas"),
        ("lion", {"lr": 0.1}, "'lr'"),
        ("adamw", {"weight_decay": 0.1}, "'weight_decay'"),
        ("lion", {"betas": 0.9}, "betas"),
        ("lion", {"betas": (0.9, 0.9, 0.9)}, "betas"),
        ("lion", {"betas": (0.9, 7.0)}, "7.0"),
        ("lamb", {"betas": (0.9, 1.5)}, "lamb"),
        ("adamw", {"eps": "small"}, "eps"),
        ("adamw", {"amsgrad": 1}, "amsgrad"),
        ("sgd", {"eps": 1e-8}, "'eps'"),
        ("lions", {}, "'lion'"),
        ("Lion", {}, "'lion'"),
        ("fusedlamb", {}, "apex"),
    ],
)
def test_an_optimizer_or_option_that_there_is_not_is_refused(name, options, named):
    with pytest.raises(RecipeError) as error:
        check_optimizer(name, options, momentum=0.9)
    assert named in str(error.value)


def test_options_are_read_from_toml_and_back():
    recipe = change(Recipe(), optimizer="lion", optimizer_options={"betas": (0.9, 0.99)})
    file = Path("r.toml")
    file.write_text(dump_recipe(recipe))
    assert make_recipe(file) == recipe
    assert "optimizer_options = { betas = [0.9, 0.99] }" in file.read_text()
    for value in ({"betas": [[0.9]]}, {"eps": float("nan")}, [1], {"eps": None}):
        with pytest.raises(RecipeError):
            make_recipe(optimizer_options=value)


def test_the_command_line_takes_an_optimizer_and_its_options(photos):
    asked = ["finetune", "--data", photos, "--dry-run", "--train", "finetune"]
    asked += [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]
    made = zoo_(*asked, "--optimizer", "lion", "--optimizer-option", "betas=0.9,0.98", "-v")
    assert "betas=0.9,0.98" in made.stdout
    assert "set --lr for lion" in made.stdout  # It is another's default.
    refused = zoo_(*asked, "--optimizer", "lion", "--optimizer-option", "beta=0.9", code=2)
    assert "--optimizer lion" in refused.stderr
    assert "Traceback" not in refused.stderr
