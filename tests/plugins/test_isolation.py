"""What a plugin does while it is loaded stays with it, and it is named for what it does later."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from click.testing import CliRunner

import zoo
from tests.conftest import QUICK, write_plugin
from tests.plugins.conftest import GOOD, TRAINABLE
from zoo import plugins
from zoo.cli import main
from zoo.errors import PluginError

ONLY_THIRD_PARTIES = "torchvision,timm,zoo"

PRINTS = {
    "print": "print('HELLO')",
    "bytes": "import sys; sys.stdout.buffer.write(b'HELLO'); sys.stdout.flush()",
    "the_original_stream": "import sys; sys.__stdout__.write('HELLO')",
    "a_descriptor": "import os; os.write(1, b'HELLO')",
    "c_library": "import ctypes; ctypes.CDLL(None).printf(b'HELLO')",
    "a_child": "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(\"HELLO\")'])",
}


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
    result = CliRunner().invoke(main, ["plugins", "--format", "json", *arguments])
    return {p["name"]: p for p in json.loads(result.stdout)}


@pytest.mark.skipif(os.name != "posix", reason="asks the C library by its POSIX name")
def test_what_plugins_print_while_loading_is_kept_off_stdout_and_shown(tmp_path):
    """Through whatever door: stdout is zoo's answer."""
    for door, code in PRINTS.items():
        write_plugin(
            tmp_path, f"acme-{door}", door, f"acme_{door}", f"{code}\n{GOOD}".format(name="a")
        )
    in_hook = GOOD.format(name="a").replace("yield", "print('HELLO'); yield")
    write_plugin(tmp_path, "acme-hook", "hook", "acme_hook", in_hook)
    code = "from zoo.cli import main; main(['plugins', '--format', 'json'])"
    done = run_zoo(code, tmp_path, ZOO_DISABLE_PLUGINS=ONLY_THIRD_PARTIES)
    listed = json.loads(done.stdout)
    found = {p["name"]: p for p in listed if p["distribution"].startswith("acme-")}
    assert found.keys() == {*PRINTS, "hook"}
    assert {p["printed"] for p in found.values()} == {"HELLO"}
    assert {p["state"] for p in found.values()} == {"ok"}
    table = run_zoo(
        "from zoo.cli import main; main(['plugins'])",
        tmp_path,
        ZOO_DISABLE_PLUGINS=ONLY_THIRD_PARTIES,
    )
    assert table.stdout.count("printed while loading: HELLO\n") == len(found)


@pytest.mark.parametrize("door", PRINTS)
def test_prints_are_caught_where_stdout_is_no_file(install, door):
    """As in a notebook, or in click's test runner."""
    install("acme-one", "one", f"acme_loud_{door}", f"{PRINTS[door]}\n{GOOD}".format(name="a"))
    assert listed()["one"]["printed"] == "HELLO"


def test_output_is_cut_and_its_escapes_made_harmless(install):
    code = "print('\\x1b[2Jcleared\\r\\u202e' + 'x\\n' * 5000)\n" + GOOD.format(name="a")
    install("acme-one", "one", "acme_escapes", code)
    printed = plugins.load("one").printed
    assert printed.startswith("\\x1b[2Jcleared\\r\\u202ex\\nx\\n")
    assert printed.isprintable()
    assert printed.endswith(" ...")
    assert len(printed) < 1000


def test_an_errors_message_is_cut_and_made_harmless(install):
    install("acme-one", "one", "acme_rude", "raise ValueError('\\x1b[2J' + 'x' * 5000)")
    cause = plugins.load("one").cause
    assert cause.startswith("ValueError: \\x1b[2Jxxx")
    assert len(cause) < 1000


def test_a_stream_that_a_plugin_keeps_works_after_loading(install, capsys):
    code = "import sys\nkept = sys.stdout\n" + GOOD.format(name="a")
    install("acme-one", "one", "acme_keeps", code)
    assert plugins.load("one").printed == ""
    sys.modules["acme_keeps"].kept.write("later")
    assert capsys.readouterr().out == "later"


@pytest.mark.parametrize(
    "vandalism",
    ["import sys; sys.stdout = None", "import sys; sys.stdout.close()", "import os; os.close(1)"],
)
def test_stdout_survives_a_plugin_that_takes_it_away(tmp_path, vandalism):
    write_plugin(tmp_path, "acme-one", "one", "acme_one", f"{vandalism}\n{GOOD}".format(name="a"))
    code = "from zoo.cli import main; main(['plugins', '--format', 'json'])"
    done = run_zoo(code, tmp_path, ZOO_DISABLE_PLUGINS=ONLY_THIRD_PARTIES)
    assert "one" in [p["name"] for p in json.loads(done.stdout)]


HANGS = {
    "loop": "while True:\n    pass",
    "wait": "import time\n\ntime.sleep(1000)",
    "read": "import os\n\nos.read(os.pipe()[0], 1)",
    "stubborn": (
        "import time\nwhile True:\n    try:\n        time.sleep(1000)\n"
        "    except Exception:\n        pass"
    ),
}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals: no limit")
@pytest.mark.parametrize("kind", HANGS)
def test_a_plugin_that_hangs_is_stopped_and_the_line_named(install, tmp_path, monkeypatch, kind):
    monkeypatch.setenv(plugins.TIMEOUT, "0.3")
    install("acme-slow", "slow", f"acme_hangs_{kind}", HANGS[kind])
    plugin = plugins.load("slow")
    assert (plugin.state, str(plugin)) == ("broken", "slow (acme-slow 1.2)")
    file = re.escape(str(tmp_path / f"acme_hangs_{kind}.py"))
    assert re.match(rf"still loading after 0\.3 s, in {file} line [1-5] ", plugin.cause)
    with pytest.raises(PluginError, match=r"plugin slow \(acme-slow 1.2\) can't be used: .*still"):
        plugins.get("slow/net")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals: no limit")
def test_a_hook_that_hangs_in_a_library_is_named_by_the_plugins_own_line(install, monkeypatch):
    monkeypatch.setenv(plugins.TIMEOUT, "0.3")
    code = """
    import threading, zoo

    @zoo.hookimpl
    def zoo_backbones():
        threading.Event().wait()
    """
    install("acme-slow", "slow", "acme_hook_hangs", code)
    assert "acme_hook_hangs.py line 6 " in plugins.load("slow").cause


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals: no limit")
def test_the_alarm_that_was_set_before_is_set_again(install):
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.4)
        started = time.monotonic()
        install("acme-one", "one", "acme_alarm", "import time; time.sleep(0.1)\n" + TRAINABLE)
        assert plugins.load("one").state == "ok"
        while not rung and time.monotonic() < started + 20:
            time.sleep(0.1)
        assert len(rung) == 1
        assert rung[0] - started >= 0.4 - 0.01
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_plugins_load_off_the_main_thread(install):
    install("acme-one", "one", "acme_thread", "print('HELLO')\n" + GOOD.format(name="a"))
    found = []
    thread = threading.Thread(target=lambda: found.append(plugins.load("one")))
    thread.start()
    thread.join()
    assert (found[0].state, found[0].printed) == ("ok", "HELLO")


@pytest.mark.usefixtures("fresh_plugins")
@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_of_seconds_is_refused(monkeypatch, value):
    monkeypatch.setenv("ZOO_PLUGIN_TIMEOUT", value)
    result = CliRunner().invoke(main, ["plugins"])
    assert result.exit_code == 2
    assert f"ZOO_PLUGIN_TIMEOUT='{value}' in the environment: give the seconds" in result.stderr


def test_a_limit_of_zero_is_none(install, monkeypatch):
    monkeypatch.setenv("ZOO_PLUGIN_TIMEOUT", "0")
    install("acme-one", "one", "acme_unlimited", "import time; time.sleep(0.1)\n" + TRAINABLE)
    assert plugins.load("one").state == "ok"


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import sys\nsys.exit('enough')", "SystemExit: enough"),
        ("class Own(BaseException): ...\nraise Own('no error')", "Own: no error"),
        (
            "class Odd(Exception):\n    def __str__(self): return 1 / 0\nraise Odd",
            "Odd: (its message can't be had)",
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
    with pytest.raises(PluginError, match=r"net of plugin acme \(zoo-acme 1.2\) can't make sense"):
        zoo.build("acme/net", 3, weights=str(tmp_path / "a.safetensors"))


def test_a_backbone_that_no_plugin_declared_is_described_by_its_name(install):
    bare = zoo.Backbone(name="mine", build=None, head="fc", preprocess=zoo.Preprocess(size=8))
    assert plugins.describe(bare) == "backbone mine"
    install("acme-broken", "one", "acme_not_loaded", "raise OSError")
    one = zoo.Backbone(name="one/net", build=None, head="fc", preprocess=zoo.Preprocess(size=8))
    assert plugins.describe(one) == "backbone one/net of plugin one (acme-broken 1.2)"
    assert "acme_not_loaded" not in sys.modules


def test_what_is_left_out_is_counted_and_listed_with_its_reason(install):
    code = GOOD.format(name="net") + (
        "    yield zoo.LeftOut(name='net_encoder', reason='a pure encoder, without a classifier')\n"
    )
    install("zoo-acme", "acme", "acme_left_out", code)
    assert (listed()["acme"]["backbones"], listed()["acme"]["left_out"]) == (1, 1)
    table = CliRunner().invoke(main, ["plugins"]).stdout
    assert re.search(r"zoo-acme 1\.2 +1 backbone, 1 left out", table)
    line = "- acme/net_encoder is no backbone: a pure encoder, without a classifier\n"
    for form in ("table", "json"):
        found = CliRunner().invoke(main, ["backbones", "acme/*", "--format", form])
        assert line in found.stderr
        assert "net_encoder" not in found.stdout
    assert "encoder" not in CliRunner().invoke(main, ["backbones", "resnet18"]).stderr
    for name in ("acme/net_encoder", "net_encoder"):
        shown = CliRunner().invoke(main, ["show", name])
        assert shown.exit_code == 2
        assert "acme/net_encoder is no backbone: a pure encoder" in shown.stderr


#: A dozen ways to be a bad neighbour: code, state, cause.
FAULTS = {
    "import": ("import nowhere_to_be_found", "missing dependency", "No module named 'nowhere"),
    "raises": ("raise OSError('boom')", "broken", "OSError: boom"),
    "exits": ("raise SystemExit(0)", "broken", "SystemExit: 0"),
    "syntax": ("def zoo_backbones(:", "broken", "SyntaxError: invalid syntax"),
    "hook": (
        GOOD.format(name="a").replace("yield", "raise KeyError('hook'); yield"),
        "broken",
        "KeyError: 'hook'",
    ),
    "misspelt": (
        GOOD.format(name="a").replace("zoo_backbones", "zoo_backbone"),
        "broken",
        "unknown hook 'zoo_backbone'",
    ),
    "stranger": (
        GOOD.format(name="a").replace("yield", "yield 'resnet18'; yield"),
        "broken",
        "zoo_backbones gave 'resnet18', which is no zoo.Backbone",
    ),
    "nothing": (
        "import zoo\n@zoo.hookimpl\ndef zoo_backbones(): return 3",
        "broken",
        "TypeError: 'int' object is not iterable",
    ),
    "twice": (
        GOOD.format(name="a") + "    yield zoo.LeftOut(name='a', reason='')\n",
        "broken",
        "backbone twice/a is declared twice",
    ),
    "badname": (GOOD.format(name="a/b"), "broken", "backbone name 'a/b': use letters"),
    "hangs": ("while True: pass", "broken", "still loading after 3 s, in "),
    "wrongs": (GOOD.replace("zoo.Backbone(", "zoo.Backbone(colour=1,"), "broken", "'colour'"),
    "prints": ("print('{')\n" + GOOD.format(name="a"), "ok", ""),
    "badhead": (TRAINABLE.replace('head="5"', 'head="fc"'), "ok", ""),
}


@pytest.mark.slow
def test_a_dozen_faulty_plugins_in_one_process_hurt_nobody(tmp_path, photos):
    for name, (code, _, _) in FAULTS.items():
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
    done = run_zoo(code, tmp_path, ZOO_DISABLE_PLUGINS=ONLY_THIRD_PARTIES, ZOO_PLUGIN_TIMEOUT="3")
    listing, _, predictions, _ = done.stdout.split("-----\n")
    found = {(p["name"], p["distribution"]): p for p in json.loads(listing)}
    assert found["fine", "acme-good"]["state"] == "ok"
    assert found["hook", "acme-thief"]["state"] == "duplicate"
    assert found["hook", "acme-hook"]["state"] == "duplicate"
    for name, (_, state, cause) in FAULTS.items():
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
