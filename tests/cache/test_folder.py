"""The cache folder keeps within its limit, shows what it holds, and can be emptied."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tests.cache.conftest import ABOUT, features, filled, key, row
from tests.conftest import zoo_
from zoo.cache import Kind, clear, open_store, root, stored
from zoo.io.files import home

DAY = 86400


def aged(days_ago, count=2, **about):
    """A store of so many rows that was used so many days ago."""
    path = filled(count, **about)
    then = time.time() - days_ago * DAY
    os.utime(path / "about.json", (then, then))
    return path


def total():
    return sum(store.bytes for store in stored())


def test_room_is_made_from_the_store_not_used_for_longest():
    paths = [aged(days, days=days) for days in (1, 3, 2)]
    size = total() // 3
    with features(new=1) as store:
        assert store.reserve(100, total() + 100)
        assert [path.exists() for path in paths] == [True, True, True]
        assert store.reserve(100, total())
        assert [path.exists() for path in paths] == [True, False, True]
        assert store.reserve(size + 100, total())
        assert [path.exists() for path in paths] == [False, False, False]


def test_opening_a_store_counts_as_its_use():
    oldest, older = aged(3, days=3), aged(2, days=2)
    features(days=3).close()
    with features(new=1) as store:
        assert store.reserve(1, total())
    assert (oldest.exists(), older.exists()) == (True, False)


def test_what_can_not_fit_is_refused_and_nothing_deleted():
    path = aged(1, old=1)
    with features(new=1) as store:
        assert not store.reserve(2000, 1000)
        store.append([(key(0), row(0))])
        assert not store.reserve(1000, 1000)
    assert path.exists()


def test_a_store_that_is_open_is_never_deleted_to_make_room(other_process):
    theirs = aged(9, theirs=1)
    ours = aged(8, ours=1)
    free = aged(7, free=1)
    process = other_process("""
        store = features(theirs=1)
        print("open", flush=True)
        sys.stdin.readline()
    """)
    assert process.stdout.readline() == "open\n"
    opened = features(ours=1)
    for path, days in ((theirs, 9), (ours, 8)):
        then = time.time() - days * DAY
        os.utime(path / "about.json", (then, then))
    with features(new=1) as store:
        assert store.reserve(1, total())
        assert [p.exists() for p in (theirs, ours, free)] == [True, True, False]
        assert not store.reserve(1, total())
        cleared = clear()
        assert cleared.stores == 0
        assert {each.path for each in cleared.kept} == {theirs, ours}
        opened.close()
        process.kill()
        process.wait()
        assert store.reserve(1, total())
        assert [p.exists() for p in (theirs, ours)] == [False, True]


def test_a_store_that_is_not_writable_makes_no_room():
    path = aged(1, old=1)
    filled(1)
    with features() as first, features() as second:
        assert not second.reserve(1, total())
        assert path.exists()
        assert first.reserve(1, total())
        assert not path.exists()


def test_some_of_the_disk_stays_free():
    old = aged(1, old=1)
    disk = shutil.disk_usage(root())
    with features(new=1) as store:
        assert not store.reserve(disk.free - (1 << 20), 1 << 60)
        assert store.reserve(1, 1 << 60)
    assert old.exists()


def test_a_deleted_store_can_be_filled_again():
    path = filled(3)
    assert clear().stores == 1
    assert not path.exists()
    with features() as store:
        assert len(store) == 0
        store.append([(key(1), row(1))])
    assert len(features()) == 1


def test_only_what_is_a_store_is_listed_and_deleted():
    filled(1)
    strangers = [root() / "features" / "mine", root() / "other" / ("a" * 32)]
    for path in strangers:
        path.mkdir(parents=True)
        (path / "index.bin").write_text("precious")
    assert len(stored()) == 1
    assert clear().stores == 1
    assert all((path / "index.bin").exists() for path in strangers)


def test_the_list_says_what_how_much_when_and_for_what():
    old = aged(400, count=3, weights="a" * 64, crop={"mode": "center"})
    with open_store("examined", {}, dtype=np.uint8) as store:
        store.append([(key(0), np.empty(0, np.uint8))])
    shown = zoo_("cache", "list")
    _, *lines = shown.stdout.splitlines()
    assert lines[0].split()[:2] == ["examined", "1"]
    assert lines[1].split()[:4] == ["features", "3", "1.11", "kB"]
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime((old / "about.json").stat().st_mtime))
    assert lines[1].endswith(used)
    assert lines[2].split(", ") == [
        "    backbone timm/test_efficientnet",
        'crop {"mode": "center"}',
        "size 32",
        "weights aaaaaaaaaaaa...",
    ]
    assert shown.stderr.startswith("2 stores, 1.2")
    assert shown.stderr.endswith(f"kB in all, in {root().parent}\n")


def test_the_list_as_json_says_all():
    path = filled(3)
    (listed,) = json.loads(zoo_("cache", "list", "--format", "json").stdout)
    assert listed.pop("used").startswith("20")
    assert listed == {
        "kind": "features",
        "about": ABOUT,
        "records": 3,
        "bytes": sum(file.stat().st_size for file in path.iterdir()),
        "path": str(path),
    }


def test_an_empty_cache_is_listed_and_cleared_as_such():
    assert json.loads(zoo_("cache", "list", "--format", "json").stdout) == []
    assert zoo_("cache", "list").stderr == f"0 stores, 0 B in all, in {root().parent}\n"
    assert zoo_("cache", "clear").stdout == "deleted 0 stores, freed 0 B\n"
    assert not root().exists()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_one_kind_can_be_cleared(kind):
    for each in get_args(Kind):
        with open_store(each, ABOUT, dtype=np.uint8) as store:
            store.append([(key(0), np.zeros(848, np.uint8))])
    assert zoo_("cache", "clear", kind).stdout == "deleted 1 store, freed 982 B\n"
    assert {store.kind for store in stored()} == {*get_args(Kind)} - {kind}
    assert zoo_("cache", "clear").stdout.startswith("deleted 3 stores")
    assert stored() == []


@pytest.fixture
def engines():
    """A converted network, used two days ago, and a measurement, 40 days old."""
    network, speeds = home() / "engines" / ("a" * 32), home() / "engines" / f"{'b' * 32}.json"
    network.mkdir(parents=True)
    (network / "network.onnx").write_bytes(bytes(3000))
    speeds.write_text('{"torch": 122, "onnxruntime": 296}')
    for path, days in ((network, 50), (network / "network.onnx", 2), (speeds, 40)):
        then = time.time() - days * DAY
        os.utime(path, (then, then))
    return network, speeds


def test_converted_networks_are_listed(engines):
    filled(1)
    network, speeds = engines
    first, second, third = json.loads(zoo_("cache", "list", "--format", "json").stdout)
    assert first["kind"] == "features"
    assert (second["kind"], second["path"], second["bytes"]) == ("engines", str(network), 3000)
    assert (third["kind"], third["path"]) == ("engines", str(speeds))
    assert third["about"] == {"torch": 122, "onnxruntime": 296}
    assert "onnxruntime 296" in zoo_("cache", "list").stdout


def test_converted_networks_are_cleared_but_not_to_make_room(engines):
    old = aged(1, old=1)
    (home() / "engines" / "mine").mkdir()
    network, speeds = engines
    held = sum(store.bytes for store in stored() if store.kind != "engines")
    with features(new=1) as store:
        assert store.reserve(1, held)
    assert [each.exists() for each in (old, network, speeds)] == [False, True, True]
    zoo_("cache", "clear", "engines", "--older-than", "30")
    assert (network.exists(), speeds.exists()) == (True, False)
    assert zoo_("cache", "clear", "engines").stdout == "deleted 1 store, freed 3 kB\n"
    assert [path.name for path in (home() / "engines").iterdir()] == ["mine"]


def test_an_unknown_kind_is_refused():
    filled(1)
    refused = zoo_("cache", "clear", "feature", code=2).stderr
    assert "'feature'" in refused
    assert "'features'" in refused
    assert len(stored()) == 1


def test_what_was_used_lately_can_be_kept():
    old, new = aged(31, days=31), aged(29, days=29)
    assert zoo_("cache", "clear", "--older-than", "30").stdout.startswith("deleted 1 store,")
    assert (old.exists(), new.exists()) == (False, True)


def test_what_is_in_use_is_kept_and_named():
    path = filled(1)
    with features():
        cleared = zoo_("cache", "clear")
    assert cleared.stdout == "deleted 0 stores, freed 0 B\n"
    assert f" {path}: " in cleared.stderr
    assert Path(path, "index.bin").exists()
