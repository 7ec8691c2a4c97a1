"""Options of a backbone's network: checked before anything is built, recorded, used again."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import DropPath

import zoo
from tests.conftest import QUICK, zoo_
from tests.pipeline.conftest import rows
from tests.pipeline.crash import Crash, check_equal, crash_at
from tests.runs.forging import MODEL, copy, forge
from zoo import cache, plugins
from zoo.errors import OptionError, PluginError, RecipeError, RunError
from zoo.events import ignore
from zoo.recipe import dump_recipe, make_recipe

OPTIONS = {"drop_path_rate": 0.5, "drop_rate": 0.25}

#: A network of fixed size, built for another size and with options.
FIELDS = {**QUICK, "backbone": "timm/test_vit", "image_size": 64, "backbone_options": OPTIONS}


@pytest.fixture(scope="module")
def dropped(photos, tmp_path_factory) -> zoo.Run:
    """A run with options. Not to be changed."""
    out = tmp_path_factory.mktemp("options") / "run"
    return zoo.finetune(photos, out=out, listen=ignore, **FIELDS)


def rates(model: torch.nn.Module) -> tuple[float, float]:
    """The highest rate of stochastic depth, and the rate of dropout before the head."""
    depth = max(m.drop_prob for m in model.modules() if isinstance(m, DropPath))
    return depth, model.head_drop.p


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["drop_pth_rate=0.1"], ["'drop_pth_rate'", "'drop_path_rate'?", "drop_rate (a number"]),
        (["drop_rate=1.5"], ["drop_rate = 1.5", "from 0 to 1"]),
        (["drop_rate=true"], ["drop_rate = True", "a number"]),
        (["drop_rate=high"], ["drop_rate = 'high'", "a number"]),
        (["drop_rate=nan"], ["backbone_options"]),
        (["drop_rate=2", "zzz=1"], ["drop_rate = 2", "'zzz'"]),
        (["drop_rate"], ["NAME=VALUE"]),
        (["drop_rate=0.1", "drop_rate=0.2"], ["drop_rate is given twice"]),
    ],
)
def test_an_invalid_option_is_refused_before_anything_is_built(words, named, photos, monkeypatch):
    monkeypatch.setattr("zoo.plugins.build", lambda *_: pytest.fail("was built"))
    flags = [f"--backbone-option={word}" for word in words]
    done = zoo_("finetune", "--backbone", "timm/test_vit", "--data", str(photos), *flags, code=2)
    assert all(each in done.stderr for each in named), done.stderr
    assert list(Path().iterdir()) == []


def test_an_option_that_this_network_does_not_take_is_refused_with_the_reason(photos):
    words = ["--backbone", "timm/vgg11", "--backbone-option", "drop_path_rate=0.1"]
    done = zoo_("finetune", *words, "--data", str(photos), code=2)
    assert "timm/vgg11 can't be built with drop_path_rate=0.1" in done.stderr
    assert "keyword argument 'drop_path_rate'" in done.stderr
    assert list(Path().iterdir()) == []


def test_a_backbone_without_options_says_so():
    backbone = replace(plugins.get("torchvision/resnet18"), options={})
    with pytest.raises(OptionError, match=r"torchvision/resnet18: .*dropout"):
        zoo.build(backbone, 2, weights="none", options={"dropout": 0.1})


def test_the_plan_shows_options_and_where_they_are_from(photos):
    Path("r.toml").write_text("[model.backbone_options]\ndrop_rate = 0\n")
    quick = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]
    words = ["finetune", "--data", str(photos), "--dry-run", "-v", *quick]
    done = zoo_(*words, "--recipe", "r.toml")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["options", "drop_rate=0.0"] in lines
    assert ["backbone_options", "drop_rate=0.0", "recipe"] in lines
    done = zoo_("show", "timm/test_vit")
    assert "drop_path_rate  Stochastic depth" in done.stdout


def test_a_run_records_its_options_and_is_built_with_them_again(dropped, photos):
    assert rates(dropped.model) == (0.5, 0.25)
    again = zoo.load(dropped.path / MODEL, device="cpu")
    assert again.info.recipe.backbone_options == OPTIONS
    assert rates(again.model) == (0.5, 0.25)
    assert make_recipe(dropped.path / "recipe.toml").backbone_options == OPTIONS
    written = tomllib.loads((dropped.path / "recipe.toml").read_text())
    assert written["model"]["backbone_options"] == OPTIONS
    config = json.loads((dropped.path / "config.json").read_text())
    assert config["model_args"] == {"img_size": 64, **OPTIONS}
    assert len(again.predict([photos / "red" / "0.png"])) == 1
    assert again.evaluate().metrics["accuracy"] == again.info.val_accuracy


def test_timm_loads_the_run_with_its_options(dropped):
    model = timm.create_model(f"local-dir:{dropped.path}", pretrained=True).eval()
    assert rates(model) == (0.5, 0.25)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), dropped.model(images))


@pytest.mark.medium
def test_a_run_with_options_is_verified(dropped):
    assert {f.file: f.state for f in zoo.verify(dropped.path) if f.state != "ok"} == {}


@pytest.mark.slow
def test_a_run_with_options_is_exported(dropped, tmp_path):
    report = zoo.export.export(dropped, "torch-export", tmp_path / "run.pt2")
    assert report.agreement == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{ drop_rate = 7.0 }", "drop_rate = 7.0 must be a number from 0 to 1"),
        ("{ img_size = 4096 }", "no option 'img_size'"),
        ('{ drop_rate = "\\u001b" }', "drop_rate = '\\x1b' must be"),
        ("{ drop_rate = [[1]] }", "give a table of names with numbers"),
        ("3", "give a table of names with numbers"),
    ],
)
def test_options_of_a_strangers_run_are_checked_before_it_is_built(
    dropped, tmp_path, monkeypatch, options, message
):
    folder = copy(dropped, tmp_path)
    recipe = f"backbone = 'timm/test_vit'\nbackbone_options = {options}\n"
    forge(folder / MODEL, recipe=recipe)
    monkeypatch.setattr("zoo.plugins.build", lambda *_: pytest.fail("was built"))
    with pytest.raises(RunError) as error:
        zoo.load(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_from_before_there_were_options_loads(run, tmp_path):
    folder = copy(run, tmp_path)
    lines = dump_recipe(run.info.recipe).splitlines()
    old = "\n".join(line for line in lines if not line.startswith("backbone_options"))
    assert len(old.splitlines()) == len(lines) - 1
    forge(folder / MODEL, recipe=old)
    assert zoo.load(folder).info.recipe == run.info.recipe


@pytest.mark.slow
def test_a_crashed_run_with_options_resumes_to_the_same_weights_to_the_bit(photos):
    fields = {**FIELDS, "data": photos, "epochs": 2, "checkpoint_every": 1}
    whole = zoo.finetune(out="whole", listen=ignore, **fields)
    with pytest.raises(Crash):
        zoo.finetune(out="crashed", listen=crash_at(5), **fields)
    for options in ({"drop_path_rate": 0.25, "drop_rate": 0.25}, {}):
        with pytest.raises(RunError, match="backbone_options"):
            zoo.resume("crashed", listen=ignore, backbone_options=options)
    check_equal(zoo.resume("crashed", listen=ignore, backbone_options=OPTIONS), whole)
    with pytest.raises(RunError, match="backbone_options"):
        zoo.resume("whole", backbone_options={"drop_rate": 0.5})


def test_options_change_what_is_trained(dropped, photos):
    fields = {**FIELDS, "backbone_options": {}}
    plain = zoo.finetune(photos, out="plain", listen=ignore, **fields)
    assert rows(plain)[0]["train_loss"] != rows(dropped)[0]["train_loss"]


@pytest.mark.slow
def test_features_of_networks_with_other_options_are_cached_apart(photos):
    fields = {**QUICK, "train": "probe"}
    for out, options in enumerate(({}, {"drop_rate": 0.5}, {"drop_rate": 0.5})):
        zoo.finetune(photos, out=str(out), listen=ignore, **fields, backbone_options=options)
    found = [s.about["options"].get("drop_rate") for s in cache.stored() if s.kind == "features"]
    assert set(found) == {None, 0.5}
    assert found.count(None) == found.count(0.5)


def test_a_backbone_is_built_with_options_whatever_its_weights():
    model = zoo.build("timm/resnet18.a1_in1k", 2, weights="none", options={"drop_rate": 1})
    assert model.drop_rate == 1.0
    model = zoo.build("zoo/efficientnet_lite0", 2, options={"drop_rate": 0.5})
    assert model.drop_rate == 0.5


def declared_rates(name: str) -> tuple[dict[str, float], torch.nn.Module]:
    with torch.device("meta"):
        backbone = plugins.get(f"torchvision/{name}")
        rates = {k: o.default for k, o in backbone.options.items() if o.kind is float}
        return rates, backbone.build(2, False)


def check_torchvision(name: str) -> None:
    from torchvision.ops import StochasticDepth

    defaults, model = declared_rates(name)
    kinds = {"dropout": torch.nn.Dropout, "stochastic_depth_prob": StochasticDepth}
    assert defaults
    for option, default in defaults.items():
        found = [m.p for m in model.modules() if isinstance(m, kinds[option])]
        # In an efficientnet the rate of the last block is below the nominal one.
        below = name.startswith("efficientnet") and option == "stochastic_depth_prob"
        assert any(p == pytest.approx(default) or (below and 0.9 < p / default < 1) for p in found)
        with torch.device("meta"):
            other = zoo.build(
                f"torchvision/{name}", 2, weights="none", options={option: default / 2 + 0.125}
            )
        changed = [m.p for m in other.modules() if isinstance(m, kinds[option])]
        assert len(changed) == len(found)
        expected = [(default / 2 + 0.125) * p / default if default else 0.125 for p in found]
        # GoogLeNet's auxiliary heads have a rate of their own.
        assert all(
            c == pytest.approx(e) or (name == "googlenet" and c == f)
            for c, e, f in zip(changed, expected, found, strict=True)
        )


@pytest.mark.parametrize("name", ["squeezenet1_1", "swin_t", "mobilenet_v3_small"])
def test_torchvisions_options_have_the_declared_defaults_and_are_set(name):
    check_torchvision(name)


@pytest.mark.slow
def test_all_of_torchvisions_options_have_the_declared_defaults_and_are_set():
    declared = {b.name.partition("/")[2]: b.options for b in zoo.backbones("torchvision/*")}
    names = [name for name, options in declared.items() if options.keys() - {"in_chans"}]
    assert len(names) > 40
    for name in names:
        check_torchvision(name)


PLUGIN = """
import dataclasses
import functools
import zoo
from torch import nn

def build(num_classes, pretrained, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, width), nn.Linear(width, num_classes or 2))

def configured(backbone, options):
    if options["width"] == 5:
        raise ValueError("5 is odd")
    if options["width"] == 6:
        return None
    if options["width"] == 7:
        raise KeyError("seven")
    build = functools.partial(backbone.build, **options)
    files = functools.partial(write, options["width"])
    return dataclasses.replace(backbone, build=build, files=files)


def write(width, class_names, preprocess):
    return {"config.json": {"width": width}}

@zoo.hookimpl
def zoo_backbones():
    yield zoo.Backbone(
        name="net", build=build, head="2", preprocess=zoo.Preprocess(size=8),
        options={"width": zoo.Option(kind=int, default=4, minimum=1, maximum=16, help="Width.")},
        configured=configured,
    )
"""


def test_a_plugin_applies_its_options_and_refuses_with_reasons(install, photos):
    install("acme-nets", "acme", "acme_options", PLUGIN)
    fields = {**QUICK, "backbone": "acme/net", "image_size": 8, "train": "finetune"}
    run = zoo.finetune(photos, out="run", listen=ignore, **fields, backbone_options={"width": 9})
    assert run.model[1].out_features == 9
    assert json.loads(Path("run/config.json").read_text())["width"] == 9
    assert zoo.load("run").model[1].out_features == 9
    assert {f.state for f in zoo.verify("run") if f.file == "config.json"} == {"ok"}
    for width, error, message in (
        (5, OptionError, "width=5: 5 is odd"),
        (6, PluginError, r"not a zoo\.Backbone"),
        (7, PluginError, "KeyError: 'seven'"),
        (4.5, OptionError, "width.* 1 to 16"),
    ):
        with pytest.raises(error, match=message):
            zoo.build("acme/net", 2, weights="none", options={"width": width})


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": list},
        {"kind": str, "maximum": 3},
        {"kind": float, "default": 2.0, "maximum": 1},
        {"kind": int, "default": True},
        {"kind": bool, "default": 1},
        {"kind": float, "default": float("nan")},
    ],
)
def test_an_option_that_contradicts_itself_is_refused(fields):
    with pytest.raises(PluginError):
        zoo.Option(help="Nothing.", **fields)


def test_options_in_a_recipe_read_back_and_are_replaced_as_a_whole():
    options = {"a": 'x "y"\n', "b-c": True, "d": 3, "e": 1e-3}
    Path("r.toml").write_text(dump_recipe(make_recipe(backbone_options=options)))
    assert make_recipe(Path("r.toml")).backbone_options == options
    assert make_recipe(Path("r.toml"), backbone_options={"d": 4}).backbone_options == {"d": 4}
    assert make_recipe(dict_changed_later()).backbone_options == {"a": 1}
    for wrong in (3, {"a": [1]}, {"a": None}, {"a": float("inf")}):
        with pytest.raises(RecipeError, match="backbone_options"):
            make_recipe(backbone_options=wrong)


def dict_changed_later():
    options = {"a": 1}
    recipe = make_recipe(backbone_options=options)
    options["a"] = 2
    return recipe
