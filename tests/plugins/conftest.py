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


@pytest.fixture
def _may_disable(monkeypatch, fresh_plugins):
    """Undo what --no-plugin does to the environment."""
    monkeypatch.setenv(plugins.DISABLE, "")
