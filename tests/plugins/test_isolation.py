"""What a plugin does while it is loaded stays with it, and it is named for what it does later."""

import json
import os
import re
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

import zoo
from tests.conftest import QUICK, write_plugin, zoo_
from tests.plugins.conftest import BROKEN, GOOD, TRAINABLE
from zoo import plugins
from zoo.errors import PluginError

ONLY_THIRD_PARTIES = "torchvision,timm,zoo"


def run_zoo(code: str, folder, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with the plugins of that folder on its path."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**inherited, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def listed(*arguments: str) -> dict[str, dict]:
    result = zoo_("plugins", "--format", "json", *arguments)
    return {p["name"]: p for p in json.loads(result.stdout)}


@pytest.mark.parametrize("code", ["{print}\n{good}", "{hook}"])
def test_what_plugins_print_while_loading_is_kept_off_stdout_and_shown(install, code):
    good = GOOD.format(name="a")
    hook = good.replace("yield", "print('HELLO'); yield")
    install(
        "acme-one", "one", "acme_loud", code.format(print="print('HELLO')", good=good, hook=hook)
    )
    assert listed()["one"]["printed"] == "HELLO"
    table = zoo_("plugins").stdout
    assert table.count("printed while loading: HELLO\n") == 1


def test_output_is_cut_and_its_escapes_made_harmless(install):
    code = "print('\\x1b[2Jcleared\\r\\u202e' + 'x\\n' * 5000)\n" + GOOD.format(name="a")
    install("acme-one", "one", "acme_escapes", code)
    printed = plugins.load("one").printed
    assert printed.startswith("\\x1b[2Jcleared \\u202ex x ")
    assert printed.isprintable()
    assert " ... " in printed
    assert len(printed) < 1000


def test_an_errors_message_is_cut_and_made_harmless(install):
    install("acme-one", "one", "acme_rude", "raise ValueError('\\x1b[2J' + 'x' * 5000)")
    cause = plugins.load("one").cause
    assert cause.startswith("ValueError: \\x1b[2Jxxx")
    assert len(cause) < 1000


@pytest.mark.parametrize("vandalism", ["sys.stdout = None", "sys.stdout.close()"])
def test_stdout_survives_a_plugin_that_takes_it_away(install, vandalism):
    install("acme-one", "one", "acme_one", f"import sys; {vandalism}\n{GOOD}".format(name="a"))
    assert listed()["one"]["state"] == "ok"


def test_plugins_load_off_the_main_thread(install):
    install("acme-one", "one", "acme_thread", "print('HELLO')\n" + GOOD.format(name="a"))
    found = []
    thread = threading.Thread(target=lambda: found.append(plugins.load("one")))
    thread.start()
    thread.join()
    assert (found[0].state, found[0].printed) == ("ok", "HELLO")


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import sys\nsys.exit('enough')", "SystemExit: enough"),
        ("class Own(BaseException): ...\nraise Own('no error')", "Own: no error"),
        (
            "class Odd(Exception):\n    def __str__(self): return 1 / 0\nraise Odd",
            "Odd: (str() of it fails)",
        ),
    ],
)
def test_whatever_a_plugin_raises_is_its_own_fault(install, code, cause):
    install("acme-one", "one", "acme_raises", code)
    assert (plugins.load("one").state, plugins.load("one").cause) == ("broken", cause)


def test_a_keyboard_interrupt_is_the_users(install):
    install("acme-one", "one", "acme_interrupted", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        plugins.load("one")


LATER = {
    "build": (
        ("from torch import nn", "raise OSError('no such layer')"),
        "could not be built (num_classes=3, pretrained=False): OSError: no such layer",
    ),
    "head": (('head="5"', 'head="fc"'), "declares head 'fc', which its model does not have"),
    "stage": (('("0", "1")', '("0", "layer9")'), "declares stage 'layer9', which its model does"),
    "stages": (('("0", "1")', "lambda model: model.blocks"), "could not say its stages: Attribute"),
    "neck": (
        ('head="5"', 'head=zoo.Head(paths=("5",), neck=("pool",))'),
        "declares neck 'pool', which its model does not have",
    ),
    "replace": (
        ('head="5"', 'head=zoo.Head(paths=("5",), replace=lambda leaf, n: leaf.width)'),
        "could not replace its head '5': AttributeError",
    ),
    "kind": (('head="5"', 'head="2"'), "its head has '2', a ReLU that no class count changes"),
    "declaration": (
        ("from torch import nn", "zoo.Preprocess(size=0)"),
        "could not be built (num_classes=3, pretrained=False): Preprocess: size is one or two ",
    ),
}


@pytest.mark.parametrize("fault", LATER)
def test_what_fails_after_loading_names_plugin_and_distribution(install, fault):
    (right, wrong), message = LATER[fault]
    assert right in TRAINABLE
    install("zoo-acme", "acme", f"acme_later_{fault}", TRAINABLE.replace(right, wrong))
    with pytest.raises(PluginError) as error:
        zoo.build("acme/net", 3, weights="none")
    start = "backbone acme/net of plugin acme (zoo-acme 1.2)"
    assert str(error.value).removeprefix(start).lstrip(": ").startswith(message), error.value


def test_a_convert_that_fails_names_plugin_and_distribution(install, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    code = TRAINABLE.replace('head="5"', 'head="5", convert=lambda state: state["b"]')
    install("zoo-acme", "acme", "acme_convert", code)
    with pytest.raises(PluginError, match=r"acme/net of plugin acme \(zoo-acme 1.2\)"):
        zoo.build("acme/net", 3, weights=str(tmp_path / "a.safetensors"))


def test_a_backbone_that_no_plugin_declared_is_described_by_its_name(install):
    bare = zoo.Backbone(name="mine", build=None, head="fc", preprocess=zoo.Preprocess(size=8))
    assert plugins.describe(bare) == "backbone mine"
    install("acme-broken", "one", "acme_not_loaded", "raise OSError")
    one = zoo.Backbone(name="one/net", build=None, head="fc", preprocess=zoo.Preprocess(size=8))
    assert plugins.describe(one) == "backbone one/net of plugin one (acme-broken 1.2)"
    assert "acme_not_loaded" not in sys.modules


@pytest.mark.slow
def test_what_is_left_out_is_counted_and_listed_with_its_reason(install):
    code = GOOD.format(name="net") + (
        "    yield zoo.LeftOut(name='net_encoder', reason='a pure encoder, without a classifier')\n"
    )
    install("zoo-acme", "acme", "acme_left_out", code)
    assert (listed()["acme"]["backbones"], listed()["acme"]["left_out"]) == (1, 1)
    table = zoo_("plugins").stdout
    assert re.search(r"zoo-acme 1\.2 +1 backbone, 1 left out", table)
    line = "- acme/net_encoder is not a backbone: a pure encoder, without a classifier\n"
    for form in ("table", "json"):
        found = zoo_("backbones", "acme/*", "--format", form)
        assert line in found.stderr
        assert "net_encoder" not in found.stdout
    assert "encoder" not in zoo_("backbones", "resnet18").stderr
    for name in ("acme/net_encoder", "net_encoder"):
        shown = zoo_("show", name, code=2)
        assert "acme/net_encoder is not a backbone: a pure encoder" in shown.stderr


@pytest.mark.slow
def test_a_dozen_faulty_plugins_in_one_process_hurt_nobody(tmp_path, photos):
    faults = {
        **BROKEN,
        "prints": ("print('{')\n" + GOOD.format(name="a"), "ok", ""),
        "badhead": (TRAINABLE.replace('head="5"', 'head="fc"'), "ok", ""),
    }
    for name, (code, _, _) in faults.items():
        write_plugin(tmp_path, f"acme-{name}", name, f"acme_{name}", code)
    write_plugin(tmp_path, "acme-thief", "hook", "acme_thief", GOOD.format(name="net"))
    write_plugin(tmp_path, "acme-good", "fine", "acme_good", TRAINABLE)
    quick = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items() if k != "backbone"]
    code = f"""
    from zoo.cli import main
    def zoo(*words):
        main(words, standalone_mode=False)
        print("-----", flush=True)
    zoo("plugins", "--format", "json")
    zoo("finetune", "--backbone=fine/net", {f"--data={photos}"!r}, "--out=run", *{quick})
    zoo("predict", "run", {str(photos / "red")!r}, "--format=json")
    main(["finetune", "--backbone=badhead/net", "--weights=none", {f"--data={photos}"!r}])
    """
    done = run_zoo(code, tmp_path, ZOO_DISABLE_PLUGINS=ONLY_THIRD_PARTIES)
    listing, _, predictions, _ = done.stdout.split("-----\n")
    found = {(p["name"], p["distribution"]): p for p in json.loads(listing)}
    assert found["fine", "acme-good"]["state"] == "ok"
    assert found["hook", "acme-thief"]["state"] == "duplicate"
    assert found["hook", "acme-hook"]["state"] == "duplicate"
    for name, (_, state, cause) in faults.items():
        if name != "hook":
            assert found[name, f"acme-{name}"]["state"] == state, found[name, f"acme-{name}"]
            assert cause in found[name, f"acme-{name}"]["cause"]
    assert found["prints", "acme-prints"]["printed"] == "{"
    assert len(json.loads(predictions)) == 10
    assert done.returncode == 2
    assert (
        "backbone badhead/net of plugin badhead (acme-badhead 1.2) declares head 'fc', "
        "which its model does not have"
    ) in done.stderr
