"""The index on disk that `zoo backbones` reads."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import zoo_
from zoo import plugins

SOURCE = """
import zoo

@zoo.hookimpl
def zoo_backbones():
    from torch import nn
    for name in {names}:
        yield zoo.Backbone(
            name=name, build=lambda n, p: nn.Linear(1, n or 2), head="",
            preprocess=zoo.Preprocess(size=32),
        )
"""


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def file(home, monkeypatch, fresh_plugins):
    """Where the index is; of torchvision's backbones alone, which are listed in no time."""
    monkeypatch.setenv(plugins.DISABLE, "timm,zoo")
    return home / "backbones.json"


def listed(*args: str) -> list[str]:
    result = zoo_("backbones", *args, "--format", "json")
    return [entry["name"] for entry in json.loads(result.stdout)]


@pytest.mark.medium
def test_the_second_listing_is_the_same_and_imports_no_library(home):
    first = listed("resnet")
    assert len(first) > 100
    code = (
        "import sys; from zoo.cli import main; "
        "main(['backbones', 'resnet'], standalone_mode=False)"
        "; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'torchvision')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == first


@pytest.mark.slow
def test_a_plugin_whose_code_has_changed_is_asked_again(file, install, fresh_plugins, tmp_path):
    install("zoo-index", "indexed", "zoo_index", SOURCE.format(names=["one"]))
    assert listed("indexed/*") == ["indexed/one"]
    module = tmp_path / "zoo_index.py"
    module.write_text(SOURCE.format(names=["one", "two"]))
    os.utime(module, ns=(0, module.stat().st_mtime_ns + 10**9))
    sys.modules.pop("zoo_index", None)
    fresh_plugins()
    assert listed("indexed/*") == ["indexed/one", "indexed/two"]


@pytest.mark.medium
def test_a_damaged_index_is_built_again(file):
    before = listed("torchvision/resnet*")
    content = json.loads(file.read_bytes())
    other = json.dumps({**content, "published": [{}]}).encode()
    for damage in (b"", b"{", b"[]", b'{"key": 1}', other):
        file.write_bytes(damage)
        assert listed("torchvision/resnet*") == before


@pytest.mark.slow
def test_a_plugin_that_fails_is_named_each_time(file, install, fresh_plugins):
    install("zoo-broken", "broken", "zoo_broken", "import nothing_of_that_name")
    for _ in range(2):
        result = zoo_("backbones", "torchvision/resnet18")
        assert "! plugin broken (zoo-broken 1.2) " in result.stderr
        fresh_plugins()
    assert not file.exists()


def test_a_home_that_cannot_be_written_costs_nothing_but_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "file"))
    assert listed("torchvision/resnet18") == ["torchvision/resnet18"]


def test_csv_has_a_line_for_each_of_the_published_weights(file):
    result = zoo_("backbones", "--weights", "torchvision/resnet50", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["name"].rpartition(".")[2] for row in rows] == ["IMAGENET1K_V1", "IMAGENET1K_V2"]
    assert [row["metrics ImageNet-1K acc@1"] for row in rows] == ["76.13", "80.858"]
    assert {row["classes"] for row in rows} == {"1000"}
