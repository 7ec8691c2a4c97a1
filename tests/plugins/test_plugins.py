import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from tests.conftest import QUICK, zoo_
from tests.plugins.conftest import BROKEN, GOOD, TRAINABLE
from zoo import cache, plugins
from zoo.errors import PluginError, UnknownBackboneError

ACME = Path(__file__).parents[1] / "acme"


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.medium
def test_a_broken_plugin_is_named_and_hurts_nobody_else(install, fault):
    code, state, cause = BROKEN[fault]
    install("acme-broken", "broken", f"acme_broken_{fault}", code)
    plugin = plugins.load("broken")
    assert (plugin.state, str(plugin)) == (state, "broken (acme-broken 1.2)")
    assert cause in plugin.cause
    with pytest.raises(PluginError, match=r"plugin broken \(acme-broken 1\.2\)"):
        plugins.get("broken/net")
    assert plugins.get("resnet18").name == "torchvision/resnet18"
    listing = zoo_("backbones", "torchvision/resnet18")
    assert listing.stdout.splitlines()[1].startswith("torchvision/resnet18 ")
    assert "! plugin broken (acme-broken 1.2) " in listing.stderr


@pytest.mark.usefixtures("_may_disable")
def test_plugins_are_listed_with_package_state_and_cause(install):
    install("acme-broken", "broken", "acme_broken_listed", "raise OSError('boom')")
    listed = {p["name"]: p for p in json.loads(zoo_("plugins", "--format", "json").stdout)}
    assert listed["broken"] == {
        "name": "broken",
        "distribution": "acme-broken",
        "version": "1.2",
        "state": "broken",
        "cause": "OSError: boom",
        "backbones": 0,
        "left_out": 0,
        "sources": [],
        "loggers": [],
        "exporters": [],
        "losses": [],
        "transforms": [],
        "weights": False,
        "resolve": False,
        "failures": [],
        "printed": "",
    }
    assert (listed["timm"]["state"], listed["timm"]["distribution"]) == ("ok", "zoo-finetune")
    assert listed["timm"]["backbones"] > 1300
    table = zoo_("plugins").stdout
    assert re.search(r"^broken +acme-broken 1\.2 +broken: OSError: boom$", table, re.MULTILINE)


EVERYTHING = """
import zoo

@zoo.hookimpl
def zoo_sources():
    return {"shop": print}

@zoo.hookimpl
def zoo_loggers():
    return {"page": print}

@zoo.hookimpl
def zoo_exporters():
    return {"chip": zoo.Exporter(suffix=".chip", write=print, open=print)}

@zoo.hookimpl
def zoo_weights(backbone):
    return []

@zoo.hookimpl
def zoo_resolve(name):
    return None
"""


def listed(name: str) -> tuple[dict, str]:
    """What `zoo plugins` says of a plugin, as JSON and in the table."""
    found = json.loads(zoo_("plugins", "--format", "json").stdout)
    table = zoo_("plugins").stdout
    (line,) = (line for line in table.splitlines() if line.startswith(f"{name} "))
    return next(p for p in found if p["name"] == name), line


def test_everything_that_a_plugin_brings_is_listed(install):
    install("acme-all", "all", "acme_everything", EVERYTHING)
    found, line = listed("all")
    assert (found["sources"], found["loggers"], found["exporters"]) == (
        ["shop"],
        ["page"],
        ["chip"],
    )
    assert (found["weights"], found["resolve"], found["failures"]) == (True, True, [])
    for part in ("source shop", "logger page", "exporter chip", "weights", "names on request"):
        assert part in line
    assert "backbone" not in line


def test_a_hook_that_fails_is_listed_beside_those_that_do_not(install):
    code = EVERYTHING.replace('{"page": print}', "1 / 0")
    install("acme-all", "all", "acme_everything_but_one", code)
    found, line = listed("all")
    assert (found["state"], found["sources"], found["loggers"]) == ("ok", ["shop"], [])
    (failure,) = found["failures"]
    assert "ZeroDivisionError" in failure
    assert failure in line


@pytest.mark.usefixtures("_may_disable")
def test_a_plugin_can_be_left_out_by_flag(install):
    install("acme-one", "one", "acme_one_flag", GOOD.format(name="mynet"))
    assert plugins.get("mynet").name == "one/mynet"
    plugins.load.cache_clear()
    result = zoo_("--no-plugin", "one", "plugins")
    assert re.search(
        r"^one +acme-one 1\.2 +disabled: by ZOO_DISABLE_PLUGINS or --no-plugin$",
        result.stdout,
        re.MULTILINE,
    )
    with pytest.raises(PluginError, match=r"plugin one .*disabled"):
        plugins.get("one/mynet")
    result = zoo_("--no-plugin", "nope", "plugins", code=2)
    assert "no plugin 'nope' to leave out" in result.stderr
    assert {"one", "timm"} <= set(re.findall(r"\w+", result.stderr.partition("plugins: ")[2]))


def test_a_plugin_can_be_left_out_by_environment(monkeypatch, fresh_plugins):
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "timm, not-installed")
    assert plugins.load("timm").state == "disabled"
    assert plugins.get("resnet18").name == "torchvision/resnet18"
    assert not any(b.name.startswith("timm/") for b in zoo.backbones())


def test_a_preferred_plugin_that_is_left_out_is_passed_over(monkeypatch, fresh_plugins):
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "torchvision")
    assert plugins.get("resnet18").name == "timm/resnet18"


def test_a_preferred_plugin_that_is_broken_is_not_silently_passed_over(monkeypatch, fresh_plugins):
    def fail():
        raise ImportError("no torchvision today")

    monkeypatch.setattr("torchvision.models.list_models", lambda **options: fail())
    with pytest.raises(PluginError, match=r"torchvision .*'resnet18'.*no torchvision today"):
        plugins.get("resnet18")
    assert plugins.get("timm/resnet18").name == "timm/resnet18"
    assert plugins.get("efficientnet_lite0").name == "zoo/efficientnet_lite0"


def test_two_packages_that_claim_one_name_are_both_refused(install):
    install("acme-one", "net", "acme_one", GOOD.format(name="a"))
    install("acme-two", "net", "acme_two", GOOD.format(name="b"))
    plugin = plugins.load("net")
    assert plugin.state == "duplicate"
    assert "acme-one, acme-two" in plugin.cause
    listed = [(p.distribution, p.state) for p in plugins.load_all() if p.name == "net"]
    assert listed == [("acme-one", "duplicate"), ("acme-two", "duplicate")]


def test_no_package_can_take_the_name_of_zoos_own_plugin(install):
    install("acme-thief", "torchvision", "acme_thief", GOOD.format(name="a"))
    assert plugins.get("resnet18").name == "torchvision/resnet18"
    assert plugins.load("torchvision").distribution == "zoo-finetune"
    (thief,) = (p for p in plugins.load_all() if p.distribution == "acme-thief")
    assert thief.state == "duplicate"
    assert "acme-thief, zoo-finetune" in thief.cause
    listed = zoo_("plugins").stdout
    assert re.search(r"acme-thief 1\.2 +duplicate: ", listed)


def test_bare_names_prefer_torchvision_then_the_only_plugin(install):
    install("acme-one", "one", "acme_one", GOOD.format(name="resnet18"))
    install("acme-two", "two", "acme_two", GOOD.format(name="mynet"))
    assert plugins.get("resnet18").name == "torchvision/resnet18"
    assert plugins.get("one/resnet18").name == "one/resnet18"
    assert plugins.get("mynet").name == "two/mynet"
    assert plugins.get("efficientnet_lite0").name == "zoo/efficientnet_lite0"
    assert plugins.get("test_vit").name == "timm/test_vit"


def test_a_bare_name_of_several_plugins_is_refused(install):
    install("acme-one", "one", "acme_one", GOOD.format(name="mynet"))
    install("acme-two", "two", "acme_two", GOOD.format(name="mynet"))
    with pytest.raises(UnknownBackboneError, match="one/mynet, two/mynet"):
        plugins.get("mynet")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet81", ": resnet18"),
        ("timm/resnet81", ": timm/resnet18"),
        ("tim/resnet18", "timm, torchvision, trackers, transformers, zoo"),
        ("%%%", "`zoo backbones`"),
    ],
)
def test_an_unknown_backbone_is_refused_with_the_nearest(name, hint):
    with pytest.raises(UnknownBackboneError, match=repr(name)) as error:
        plugins.get(name)
    assert hint in str(error.value)


def test_all_backbones_are_listed_by_full_name():
    found = {b.name: b for b in zoo.backbones()}
    assert len(found) > 1400
    assert {"torchvision/resnet18", "timm/resnet18", "zoo/efficientnet_lite0"} <= set(found)
    assert [b.name for b in zoo.backbones("torchvision/vgg1?")] == [
        f"torchvision/vgg{n}" for n in (11, 13, 16, 19)
    ]


@pytest.mark.slow
def test_one_plugins_backbone_does_not_load_the_others():
    code = "import sys, zoo.plugins; zoo.plugins.get('resnet18'); sys.exit('timm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_documented_plugin_is_the_tested_one():
    document = (ACME.parents[1] / "docs" / "plugins.md").read_text()
    for name in ("zoo_acme.py", "pyproject.toml"):
        assert (ACME / name).read_text() in document
    lines = (ACME / "zoo_acme.py").read_text().splitlines()
    assert sum(bool(line) for line in lines) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["acme-one", pytest.param("acme-nets", marks=pytest.mark.slow)])
def test_features_are_computed_again_after_an_upgrade(install, tmp_path, photos, changed):
    """Of the plugin, or of a library that it requires: what a network gives may have changed."""
    install("acme-nets", "nets", "acme_nets", "")
    install("acme-one", "one", "acme_one", TRAINABLE)
    metadata = tmp_path / "acme_one-1.2.dist-info" / "METADATA"
    metadata.write_text(f"{metadata.read_text()}Requires-Dist: acme-nets >= 1\n")
    fields = {**QUICK, "backbone": "one/net", "train": "probe"}

    def stores(out):
        zoo.finetune(photos, out=out, **fields)
        return [store.kind for store in cache.stored()].count("features")

    first = stores("first")
    assert stores("again") == first
    metadata = tmp_path / f"{changed.replace('-', '_')}-1.2.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.2", "Version: 1.3"))
    assert stores("upgraded") == 2 * first


RESOLVES = """
import functools
import zoo

@zoo.hookimpl
def zoo_resolve(name):
    if name == "hub:fails":
        raise OSError("no hub")
    if name == "hub:wrong":
        return "resnet18"
    if name.startswith("hub:"):
        print("asking the hub")
        width = int(name.rpartition("/")[2])
        return zoo.Backbone(
            name=name,
            build=functools.partial(build, width),
            head="3",
            preprocess=zoo.Preprocess(size=8),
        )

def build(width, num_classes, pretrained):
    from torch import nn
    layers = [nn.Flatten(), nn.Linear(3 * 8 * 8, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, num_classes or 10))
"""


@pytest.mark.parametrize("name", ["hub:me/16", "acme/hub:me/16"])
@pytest.mark.medium
def test_a_plugin_resolves_names_that_it_does_not_list(install, photos, name):
    install("zoo-acme", "acme", f"acme_resolves_{len(name)}", RESOLVES)
    run = zoo.finetune(photos, backbone=name, weights="none", epochs=1, device="cpu")
    assert run.info.backbone == "acme/hub:me/16"
    assert run.path.parent.name == "runs"
    assert zoo.load(run.path).model[1].out_features == 16
    assert "acme/hub:me/16" not in {b.name for b in zoo.backbones("acme/*")}


def test_a_plugin_that_resolves_badly_is_named(install):
    install("zoo-acme", "acme", "acme_resolves_badly", RESOLVES)
    with pytest.raises(PluginError, match=r"plugin acme .*no hub"):
        plugins.get("hub:fails")
    with pytest.raises(PluginError, match=r"zoo_resolve .*'resnet18'"):
        plugins.get("acme/hub:wrong")
    with pytest.raises(PluginError, match="'pub:x'"):
        plugins.get("pub:x")
