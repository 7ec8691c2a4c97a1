"""Losses and transforms that plugins declare, chosen by name."""

import json
from pathlib import Path

import pytest
import torch

import zoo
from tests.conftest import QUICK, zoo_
from zoo.errors import PluginError, RecipeError
from zoo.events import EpochEnd

LOSSES = """
import zoo

@zoo.hookimpl
def zoo_losses():
    yield zoo.Factory(name="doubled", make=lambda: doubled, summary="Twice the cross-entropy")
    yield zoo.Factory(name="missing", make=missing, summary="Of a library that is not there")

def doubled(logits, targets):
    from torch.nn.functional import cross_entropy

    return 2 * cross_entropy(logits, targets)

def missing():
    import a_library_of_losses
"""

TRANSFORMS = """
import zoo

@zoo.hookimpl
def zoo_transforms():
    yield zoo.Factory(name="dark", make=lambda: dark, summary="Views that are darker")

def dark(pixels):
    return pixels // 2
"""

FIELDS = {**QUICK, "train": "finetune", "epochs": 2}
NAMED = ["--loss", "doubled", "--transform", "dark"]


@pytest.fixture
def installed(install):
    install("zoo-losses", "losses", "acme_losses", LOSSES)
    install("zoo-dark", "darkness", "acme_dark", TRANSFORMS)


def flags(fields):
    return [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]


@pytest.mark.medium
def test_a_loss_and_a_transform_are_chosen_by_name_and_recorded(photos, installed):
    zoo_("finetune", "--data", photos, "--out", "run", *NAMED, *flags(FIELDS))
    run = zoo.load("run")
    assert (run.info.recipe.loss, run.info.recipe.transform) == ("doubled", "dark")
    for what, (name, distribution) in {
        "loss": ("doubled", "zoo-losses"),
        "transform": ("dark", "zoo-dark"),
    }.items():
        assert name in run.info.custom[what]
        assert distribution in run.info.custom[what]
    # The same code as arguments trains the same weights.
    code = {"loss": _module("acme_losses").doubled, "transform": _module("acme_dark").dark}
    same = zoo.finetune(photos, out="same", **code, **FIELDS)
    plain = zoo.finetune(photos, out="plain", **FIELDS)
    assert _equal(run, same)
    assert not _equal(run, plain)
    # The recipe of the run has the names.
    again = zoo.finetune(recipe="run/recipe.toml", out="again")
    assert _equal(run, again)
    assert again.info.custom == run.info.custom


def _module(name):
    import importlib

    return importlib.import_module(name)


def _equal(run, other):
    state = other.model.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in run.model.state_dict().items())


@pytest.mark.medium
def test_a_resumed_run_finds_its_loss_by_name_and_demands_the_same_plugin(
    photos, installed, install, fresh_plugins, monkeypatch
):
    def interrupt(event):
        if isinstance(event, EpochEnd):
            raise KeyboardInterrupt

    fields = {**FIELDS, "loss": "doubled"}
    with pytest.raises(zoo.Stopped):
        zoo.finetune(photos, out="run", listen=interrupt, **fields)
    whole = zoo.finetune(photos, out="whole", **fields)
    with monkeypatch.context() as patch:
        patch.setenv("ZOO_DISABLE_PLUGINS", "losses")
        fresh_plugins()
        with pytest.raises(PluginError):
            zoo.resume("run")
        # Another plugin with a loss of that name.
        install("zoo-others", "others", "acme_others", LOSSES)
        with pytest.raises(zoo.ZooError) as refused:
            zoo.resume("run")
        assert "zoo-others" in str(refused.value)
    Path(_module("acme_others").__file__).write_text("")
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "others")
    fresh_plugins()
    zoo_("finetune", "--resume", "run")
    assert _equal(zoo.load("run"), whole)


@pytest.mark.parametrize("what", ["loss", "transform"])
def test_an_unknown_name_is_answered_with_the_known_ones_before_data_is_read(what, installed):
    done = zoo_("finetune", "--data", "nowhere", f"--{what}", "focal", code=2)
    assert "'focal'" in done.stderr
    known = {"loss": "doubled, missing", "transform": "dark"}[what]
    assert known in done.stderr
    assert "nowhere" not in done.stderr
    assert not Path("runs").exists()


def test_a_missing_library_and_a_second_loss_are_errors(photos, installed):
    done = zoo_("finetune", "--data", photos, "--loss", "missing", code=2)
    assert "pip install a_library_of_losses" in done.stderr
    with pytest.raises(RecipeError):
        zoo.finetune(photos, recipe=zoo.Recipe(loss="doubled"), loss=torch.nn.CrossEntropyLoss())


def test_settings_of_the_tasks_loss_are_refused_beside_a_declared_one(photos, installed):
    with pytest.raises(RecipeError):
        zoo.finetune(photos, loss="doubled", label_smoothing=0.1, **FIELDS)


def test_plugins_are_listed_with_their_losses_and_transforms(installed):
    listed = zoo_("plugins")
    for text in ("loss doubled (Twice the cross-entropy)", "transform dark (Views"):
        assert text in listed.stdout
    rows = {row["name"]: row for row in json.loads(zoo_("plugins", "--format", "json").stdout)}
    assert rows["losses"]["losses"] == ["doubled", "missing"]
    assert rows["darkness"]["transforms"] == ["dark"]
    done = zoo_("check", "--plugin", "zoo-dark")
    assert done.stdout.startswith("transform dark  ")


def test_a_hook_that_yields_something_else_is_an_error_that_names_its_plugin(photos, install):
    code = "import zoo\n\n@zoo.hookimpl\ndef zoo_losses():\n    return [lambda a, b: a]\n"
    install("zoo-wrong", "wrong", "acme_wrong", code)
    done = zoo_("finetune", "--data", photos, "--loss", "focal", code=2)
    assert "zoo-wrong" in done.stderr


@pytest.mark.medium
def test_transforms_of_own_loops_include_a_declared_one(photos, installed):
    plain, dark = (
        zoo.transforms(QUICK["backbone"], augment="none", **given).train
        for given in ({}, {"transform": "dark"})
    )
    image = zoo.datasets(photos, backbone=QUICK["backbone"], transformed=False).train[0][0]
    assert dark(image).mean() < plain(image).mean()
