"""Names that other tools have for a setting are answered with zoo's."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from tests.conftest import zoo_
from zoo.cli import main
from zoo.cli.finetune import command
from zoo.cli.words import with_flags
from zoo.errors import RecipeError
from zoo.recipe import Recipe, make_recipe
from zoo.recipe.aliases import _ADVICE, _FIELDS, meant


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ("--model", "--backbone"),
        ("--model=resnet18", "--backbone"),
        ("--lr-backbone", "--lr"),
        ("--backbone-lr", "--lr"),
        ("--wd", "--weight-decay"),
        ("--bs", "--batch-size"),
        ("-b", "--batch-size"),
        ("-j", "--workers"),
        ("--batch_size", "--batch-size"),
        ("--learning-rate", "--lr"),
        ("--learning_rate", "--lr"),
        ("--num-epochs", "--epochs"),
        ("--num_train_epochs", "--epochs"),
        ("--optim", "--optimizer"),
        ("--img-size", "--image-size"),
        ("--dataset", "--data"),
        ("--output-dir", "--out"),
        ("--mixup-alpha", "--mixup"),
        ("--ema", "--ema-decay 0.999"),
        ("--pretrained", "--weights none"),
        ("--drop-path", "--backbone-option"),
        ("--opt-eps", "--optimizer-option"),
        ("--log", "--logger"),
        ("--loggers", "--logger"),
        ("--log-wandb", "--logger"),
        ("--nesterov", "--optimizer nesterov"),
        ("--resume_from_checkpoint", "--resume"),
    ],
)
def test_a_name_of_another_tool_is_answered_with_zoos(given, flag):
    done = zoo_("finetune", given, "3", code=2)
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    name = given.partition("=")[0]
    assert name in message
    assert f"{flag} " in f"{message} ".replace(";", " ").replace(",", " ")
    assert "Traceback" not in done.stderr


def test_other_unknown_options_get_clicks_answer():
    assert "No such option" in zoo_("finetune", "--nonsense", code=2).stderr


def test_every_answer_names_options_that_there_are():
    flags = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    for name in (*_FIELDS, *_ADVICE):
        assert name not in Recipe.model_fields
        text = meant(name, Recipe.model_fields)
        said = with_flags(text)
        assert "`" not in said
        named = [word.strip(",:;") for word in said.split() if word.startswith("--")]
        assert named or name == "num_classes"
        assert set(named) <= flags, name


def test_recipes_and_python_are_answered_too():
    for fields in ({"model": "resnet18"}, {"learning_rate": 0.1}):
        with pytest.raises(RecipeError) as error:
            make_recipe(**fields)
        assert {"model": "'backbone'", "learning_rate": "'lr'"}[next(iter(fields))] in str(
            error.value
        )


def completed(*words, **environment):
    """What bash gets for the last of these words."""
    set_ = {"_ZOO_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("zoo", *words))}
    set_ |= {"COMP_CWORD": str(len(words))}
    done = CliRunner().invoke(main, [], prog_name="zoo", env={**set_, **environment})
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.fixture
def indexed(tmp_path, monkeypatch):
    """A home with an index of a few backbones, as `zoo backbones` leaves it."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    names = ["timm/resnet18", "timm/resnet50", "torchvision/resnet18", "zoo/efficientnet_lite0"]
    (tmp_path / "backbones.json").write_text(
        json.dumps({"key": "old", "backbones": [{"name": name} for name in names]})
    )
    return tmp_path


def test_the_shell_completes_commands_options_and_values():
    assert "finetune" in completed("fine")
    assert {"--backbone", "--backbone-option"} <= set(completed("finetune", "--back"))
    assert completed("finetune", "--augment", "rand") == ["rand-augment"]


@pytest.mark.parametrize("words", [("finetune", "--backbone"), ("show",), ("bench",)])
def test_the_shell_completes_backbones_by_full_and_bare_names(indexed, words):
    assert completed(*words, "timm/res") == ["timm/resnet18", "timm/resnet50"]
    assert completed(*words, "resnet") == ["resnet18", "resnet50"]
    (indexed / "backbones.json").unlink()
    assert completed(*words, "resnet") == []
    assert list(indexed.iterdir()) == []


def test_completion_imports_no_torch(indexed):
    code = (
        "import sys; from zoo.cli import main\n"
        "try: main(prog_name='zoo')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    words = {"COMP_WORDS": "zoo finetune --backbone resnet", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **words, "_ZOO_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "resnet18" in done.stdout
