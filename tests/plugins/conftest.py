"""The code of plugins to write."""

import textwrap

import pytest

from zoo import plugins

GOOD = textwrap.dedent("""
    import zoo

    @zoo.hookimpl
    def zoo_backbones():
        yield zoo.Backbone(
            name="{name}", build=None, head="fc", preprocess=zoo.Preprocess(size=8)
        )
""")

#: A backbone that trains, `net`, and places to put faults in.
TRAINABLE = textwrap.dedent("""
    import zoo

    def build(num_classes, pretrained):
        from torch import nn
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes or 1000),
        )

    @zoo.hookimpl
    def zoo_backbones():
        yield zoo.Backbone(
            name="net", build=build, head="5", preprocess=zoo.Preprocess(size=32), stages=("0", "1")
        )
""")


#: A dozen ways to be a bad neighbour: code, state, cause.
BROKEN = {
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
        "zoo_backbones gave 'resnet18', not a zoo.Backbone",
    ),
    "nothing": (
        "import zoo\n@zoo.hookimpl\ndef zoo_backbones(): return 3",
        "broken",
        "TypeError: 'int' object is not iterable",
    ),
    "twice": (
        GOOD.format(name="a") + "    yield zoo.LeftOut(name='a', reason='')\n",
        "broken",
        "/a is declared twice",
    ),
    "badname": (GOOD.format(name="a/b"), "broken", "backbone name 'a/b': use letters"),
    "badsize": (GOOD.format(name="a").replace("size=8", "size=0"), "broken", "from 1 to 4096"),
    "wrongs": (GOOD.replace("zoo.Backbone(", "zoo.Backbone(colour=1,"), "broken", "'colour'"),
}


@pytest.fixture
def _may_disable(monkeypatch, fresh_plugins):
    """Undo what --no-plugin does to the environment."""
    monkeypatch.setenv(plugins.DISABLE, "")
