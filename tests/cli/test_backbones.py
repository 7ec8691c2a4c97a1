"""Choosing a backbone: what `zoo backbones` lists, in which order, and what its filters leave."""

import csv
import io
import json
import re

import pytest

from tests.conftest import zoo_
from zoo import plugins

#: Six backbones that differ in what they state.
PLUGIN = """
import zoo

@zoo.hookimpl
def zoo_backbones():
    for name, parameters, macs, size, top_1, license, data in (
        ("tiny", 400_000, 30_000_000, 128, 55.5, "MIT", "ImageNet-1k"),
        ("small", 5_288_548, 385_814_752, 224, 77.7, "apache-2.0", "ImageNet-1k"),
        ("wide", 5_288_548, 2_100_000_000, (224, 448), 76.1, None, None),
        ("large_patch14_of_a_name_that_is_long_reg4", 1_235_000_000, 322_430_000_000, 336,
         88.1, "https://acme.example/models/LICENSE", "LAION-2B, then ImageNet-12k, then in1k"),
        ("silent", None, None, 256, None, "cc-by-nc-4.0", "ImageNet-21k"),
    ):
        yield zoo.Backbone(
            name=name, build=max, head="fc", preprocess=zoo.Preprocess(size=size),
            parameters=parameters, macs=macs,
            weights=zoo.Weights(
                path=f"{name}.safetensors", license=license, data=data, num_classes=1000,
                metrics={} if top_1 is None else {"ImageNet-1K acc@1": top_1},
            ),
        )
    yield zoo.Backbone(name="bare", build=max, head="fc", preprocess=zoo.Preprocess(size=32))
    yield zoo.LeftOut(name="encoder", reason="without a classifier")
"""

LONG = "large_patch14_of_a_name_that_is_long_reg4"


@pytest.fixture(autouse=True)
def _acme(install, monkeypatch):
    others = [name for name in plugins.installed() if name != "acme"]
    monkeypatch.setenv(plugins.DISABLE, ",".join(others))
    install("acme-nets", "acme", "acme_choosing", PLUGIN)


def names(*args):
    found = json.loads(zoo_("backbones", *args, "--format", "json").stdout)
    return [each["name"].removeprefix("acme/") for each in found]


def test_json_and_csv_have_every_figure_unrounded():
    found = json.loads(zoo_("backbones", "--format", "json").stdout)
    small = next(each for each in found if each["name"] == "acme/small")
    assert (small["parameters"], small["macs"], small["top_1"]) == (5_288_548, 385_814_752, 77.7)
    assert (small["license"], small["data"], small["here"]) == ("apache-2.0", "ImageNet-1k", False)
    rows = list(csv.DictReader(io.StringIO(zoo_("backbones", "--format", "csv").stdout)))
    assert [row["name"] for row in rows] == [each["name"] for each in found]
    for row, each in zip(rows, found, strict=True):
        for field in ("parameters", "macs", "top_1", "license", "data"):
            assert row[field] == ("" if each[field] is None else str(each[field]))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("macs", ["tiny", "small", "wide", LONG]),
        ("top-1", ["tiny", "wide", "small", LONG]),
        ("input-size", ["bare", "tiny", "small", "silent", LONG, "wide"]),
        ("name", ["bare", LONG, "silent", "small", "tiny", "wide"]),
        ("license", ["tiny", "small", "silent", LONG]),
    ],
)
def test_sorted_by_a_key_those_without_a_value_come_last(key, expected):
    assert names("--sort", key)[: len(expected)] == expected
    assert names("--sort", key, "--reverse")[: len(expected)] == expected[::-1]


def test_of_equal_ones_the_first_by_name_comes_first():
    assert names("--sort", "parameters")[:4] == ["tiny", "small", "wide", LONG]
    assert names("--sort", "parameters", "--reverse")[:4] == [LONG, "small", "wide", "tiny"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--max-parameters", "5288548"], {"tiny", "small", "wide"}),
        (["--max-parameters", "5.2M"], {"tiny"}),
        (["--max-parameters", "2B"], {"tiny", "small", "wide", LONG}),
        (["--max-macs", "1g"], {"tiny", "small"}),
        (["--max-input-size", "256"], {"bare", "tiny", "small", "silent"}),
        (["--min-top-1", "77.7"], {"small", LONG}),
        (["--license", "mit"], {"tiny"}),
        (["--license", "cc-by-*"], {"silent"}),
        (["--data", "imagenet-1k"], {"tiny", "small"}),
        (["--data", "ImageNet-1k", "--max-macs", "100M"], {"tiny"}),
        (["t*y", "--license", "*"], {"tiny"}),
    ],
)
def test_filters_leave_what_meets_all_of_them(filters, expected):
    assert set(names(*filters)) == expected


def test_the_number_of_those_that_state_nothing_is_printed():
    result = zoo_("backbones", "--max-macs", "1G")
    assert result.stderr.splitlines() == ["2 left out: macs not stated", "2 backbones"]


def test_here_lists_files_of_all_places(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert names("--here") == []
    (tmp_path / "cwd" / "tiny.safetensors").write_text("")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    added = tmp_path / "home" / "weights" / "acme"
    added.mkdir(parents=True)
    (added / "bare.safetensors").write_text("")
    assert names("--here") == ["bare", "tiny"]
    assert names("--here", "--max-macs", "1G") == ["tiny"]


@pytest.mark.parametrize(
    "words",
    [
        ("--max-parameters", "many"),
        ("--max-parameters", "-3"),
        ("--max-macs", "5GB"),
        ("--max-macs", ""),
        ("--max-input-size", "0"),
        ("--min-top-1", "101"),
        ("--sort", "speed"),
    ],
)
def test_a_wrong_value_is_refused_with_the_option_in_one_message(words):
    result = zoo_("backbones", *words, code=2)
    assert result.stdout == ""
    assert words[0] in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
def test_a_table_fits_the_terminal_with_each_name_and_number_whole(width, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    result = zoo_("backbones")
    header, *rows = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", result.stdout).splitlines()
    assert [row.split()[0] for row in rows] == [f"acme/{name}" for name in names()]
    assert max(map(len, [header, *rows])) <= max(width, len(f"acme/{LONG}"))
    columns = re.split(r" {2,}", header)
    values = dict(zip(columns, rows[1].split(), strict=False))
    assert values.get("params") == ("1,235.0M" if width >= 60 else None)
    assert values.get("GMACs") == ("322.43" if width >= 80 else None)
    hidden = [line for line in result.stderr.splitlines() if "--format csv" in line]
    assert bool(hidden) == (width < 200)
    assert ("trained on" in columns) == (width == 200)


def test_networks_that_are_no_backbones_are_named_unless_filtered():
    assert "acme/encoder is not a backbone" in zoo_("backbones").stderr
    assert "acme/encoder" not in zoo_("backbones", "--here").stderr
