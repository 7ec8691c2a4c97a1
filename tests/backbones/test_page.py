"""docs/backbones.md is what a sweep of the conformance kit over all backbones gives."""

import importlib
from pathlib import Path

import pytest

from zoo import plugins

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def make(monkeypatch):
    """The script that writes the page, as a module that its processes can import too."""
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("make_backbones")


def skip_if_made_with_others(make) -> None:
    """A newer library brings other backbones; that they pass is tested, the page waits."""
    if make.versions() not in make.PAGE.read_text():
        pytest.skip(f"the page was made with other versions than {make.versions()}")


def test_the_page_has_a_row_for_each_backbone_and_a_line_for_each_left_out(make):
    skip_if_made_with_others(make)
    page = make.PAGE.read_text()
    for plugin in make.PLUGINS:
        section = page.partition(f"\n## {plugin}: ")[2].partition("\n## ")[0]
        rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
        declared = plugins.load(plugin).backbones
        assert [f"{plugin}/{row[0].strip('| `')}" for row in rows] == sorted(declared)
        for row, name in zip(rows, sorted(declared), strict=True):
            assert row[3] == ", ".join(declared[name].head_paths)
        for left_out in plugins.load(plugin).left_out.values():
            assert f"- `{left_out.name}`: {left_out.reason}\n" in section


@pytest.mark.slow
def test_every_backbone_passes_every_check_and_the_page_says_what_was_found(make):
    rows = make.sweep()
    assert [failure for row in rows for failure in row.failures] == []
    skip_if_made_with_others(make)
    assert make.page(rows) == make.PAGE.read_text(), "run python docs/make_backbones.py"
