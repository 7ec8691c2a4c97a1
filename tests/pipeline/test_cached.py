"""Cached or not, a run gives the same."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY
from tests.pipeline.conftest import DROPPING, check_same, hear, sha256, start
from zoo import cache

FROZEN = {
    "half": {"freeze": 3},
    "two views": {"freeze": "backbone", "views": 2, "epochs": 3},
    "batch norm learns": {"freeze": 2, "batch_norm": "train"},
    "not augmented": {"freeze": 3, "augment": "none"},
    "whole": {"freeze": "backbone"},
    "one view": {"freeze": 3, "views": 1, "epochs": 2},
    "layer decay": {"freeze": 2, "layer_decay": 0.5},
    "adamw": {"freeze": 3, "optimizer": "adamw", "label_smoothing": 0.1},
}


def each_case():
    """The first cases with one net in turn; all with all where minutes are allowed."""
    return [
        pytest.param(name, case, marks=[] if n < 2 and n == m else pytest.mark.slow)
        for n, case in enumerate(FROZEN)
        for m, name in enumerate(DROPPING)
    ]


def bytes_of(kind):
    return sum(store.bytes for store in cache.stored() if store.kind == kind)


@pytest.mark.parametrize(("name", "case"), each_case())
@pytest.mark.medium
def test_training_from_cached_activations_equals_training_from_images(photos, drops, name, case):
    """Batch norm, dropout and stochastic depth, in what is frozen and in what trains."""
    fields = start(name, **{"train": "finetune", "epochs": 2, "lr": 0.01, **FROZEN[case]})
    cached, notes, computed = hear(photos, "cached", **fields)
    views = 1 if case == "not augmented" else fields.get("views") or fields["epochs"]
    assert computed == {"activations": 24 * views, "val activations": 6}
    assert not [note for note in notes if "not cached" in note]
    plain, _, nothing = hear(photos, "plain", **fields, cache_size=0.0)
    assert nothing == {}
    check_same(cached, plain)
    again, _, nothing = hear(photos, "again", **fields)
    assert nothing == {}
    assert sha256(again) == sha256(cached)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(DROPPING[0], marks=pytest.mark.medium),
        *(pytest.param(n, marks=pytest.mark.slow) for n in DROPPING[1:]),
    ],
)
def test_a_probe_on_cached_features_equals_one_without(photos, drops, name):
    check_probe_from_cache(photos, start(name, train="probe"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [{"views": 2}, pytest.param({"views": 1, "augment": "none"}, marks=pytest.mark.slow)]
)
def test_a_probe_on_cached_views_equals_one_without(photos, case):
    check_probe_from_cache(photos, start(train="probe", **case))


#: Mirrored and cropped images, of which features show whether their labels stay the same.
CHANGED = "features of changed images"

#: Of the same network with random weights, with which those of the pretrained one are compared.
RANDOM = "features of random weights"


def check_probe_from_cache(photos, fields):
    cached, notes, computed = hear(photos, "cached", **fields)
    assert not [note for note in notes if "not cached" in note]
    plain, _, _ = hear(photos, "plain", **fields, cache_size=0.0)
    check_same(cached, plain)
    again, notes, nothing = hear(photos, "again", **fields)
    assert nothing == {}
    assert any("all from the cache" in note for note in notes)
    check_same(again, plain)
    assert computed["features"] == 24


@pytest.mark.medium
@pytest.mark.parametrize(
    "case",
    [
        {},
        pytest.param({"augment": "strong", "views": 1}, marks=pytest.mark.slow),
        pytest.param({"augment": "none"}, marks=pytest.mark.slow),
    ],
)
def test_training_from_cached_images_equals_training_from_files(photos, case):
    fields = start(train="finetune", epochs=2, **case)
    cached, notes, computed = hear(photos, "cached", **fields)
    assert computed == {"images": 30}
    assert not [note for note in notes if "not cached" in note]
    assert bytes_of("images")
    plain, _, _ = hear(photos, "plain", **fields, cache_size=0.0)
    again, _, nothing = hear(photos, "again", **fields)
    assert nothing == {}
    assert sha256(cached) == sha256(plain) == sha256(again)


@pytest.mark.slow
def test_both_stages_from_the_cache_equal_both_without(photos, drops):
    fields = start(DROPPING[1], train="probe+finetune", freeze=2, epochs=2, lr=0.01)
    cached, _, computed = hear(photos, "cached", **fields)
    activations = {"activations", "val activations"}
    assert set(computed) == {"features", "val features", CHANGED, RANDOM, *activations}
    plain, _, _ = hear(photos, "plain", **fields, cache_size=0.0)
    check_same(cached, plain)


@pytest.mark.slow
def test_what_is_unfrozen_later_trains_from_images(photos):
    fields = start(train="probe+finetune", freeze="backbone", unfreeze_epoch=2, epochs=3)
    cached, _, computed = hear(photos, "cached", **fields)
    features = {"features": 24, "val features": 6, CHANGED: 24, RANDOM: 24}
    assert computed == {**features, "images": 30}
    plain, _, _ = hear(photos, "plain", **fields, cache_size=0.0)
    check_same(cached, plain)


@pytest.mark.slow
def test_half_precision_takes_half_the_room_and_gives_nearly_the_same(photos):
    fields = start(train="finetune", freeze=3, epochs=2, lr=0.01, optimizer="sgd")
    full, _, _ = hear(photos, "full", **fields)
    room = bytes_of("activations")
    half, _, computed = hear(photos, "half", **fields, cache_dtype="fp16")
    assert computed == {"activations": 48, "val activations": 6}
    # Less than a full half: an index and a description come with each store.
    assert 0.4 * room < bytes_of("activations") - room < 0.7 * room
    assert sha256(half) != sha256(full)
    check_same(half, full, atol=5e-3)


#: What each kind of record is computed for.
each_kind = pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param("features", {"train": "probe"}, marks=pytest.mark.medium),
        pytest.param("activations", {"train": "finetune", "freeze": 3}, marks=pytest.mark.slow),
        pytest.param("images", {"train": "finetune"}, marks=pytest.mark.slow),
    ],
)


@each_kind
def test_what_does_not_fit_or_can_not_be_written_is_said_and_changes_nothing(
    photos, monkeypatch, kind, case
):
    fields = start(**case)
    plain, _, _ = hear(photos, "plain", **fields, cache_size=0.0)
    small, notes, _ = hear(photos, "small", **fields, cache_size=1e-6)
    assert any(kind in note and "`cache_size=1e-06` GB" in note for note in notes)
    assert bytes_of(kind) == 0
    check_same(small, plain)
    Path("file").write_text("x")
    monkeypatch.setenv("ZOO_HOME", str(Path("file/zoo").absolute()))
    run, notes, _ = hear(photos, "run", **fields)
    assert any(kind in note and os.environ["ZOO_HOME"] in note for note in notes)
    check_same(run, plain)


@each_kind
def test_a_damaged_record_is_computed_again(photos, kind, case):
    fields = start(**case)
    first, _, _ = hear(photos, "first", **fields)
    for store in cache.stored():
        if store.kind == kind:
            records = store.path / "records.bin"
            content = bytearray(records.read_bytes())
            content[len(content) // 2] ^= 1
            records.write_bytes(content)
    again, _, computed = hear(photos, "again", **fields)
    assert set(computed.values()) == {1}
    check_same(again, first)


def renamed(photos, folder):
    for photo in photos.rglob("*.png"):
        to = folder / photo.parent.relative_to(photos) / f"new-{photo.name}"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, to)
    return folder


@pytest.mark.slow
def test_renamed_and_moved_photos_keep_their_features(split_photos, tmp_path):
    fields = start(train="probe")
    first, _, _ = hear(split_photos, "first", **fields)
    moved, notes, computed = hear(renamed(split_photos, tmp_path / "elsewhere"), "moved", **fields)
    assert computed == {}
    assert any("36 rows" in note and "all from the cache" in note for note in notes)
    check_same(moved, first)


@pytest.mark.slow
def test_of_one_changed_photo_alone_features_are_computed(split_photos, tmp_path):
    data = shutil.copytree(split_photos, tmp_path / "data")
    fields = start(train="probe")
    first, _, _ = hear(data, "first", **fields)
    photo = data / "train" / "red" / "3.png"
    pixels = np.asarray(Image.open(photo)).copy()
    pixels[:24] = 255 - pixels[:24]
    Image.fromarray(pixels).save(photo)
    changed, notes, computed = hear(data, "changed", **fields)
    assert computed == {"features": 1, RANDOM: 1}
    assert any("35 of them from the cache" in note for note in notes)
    assert sha256(changed) != sha256(first)
    plain, _, _ = hear(data, "plain", **fields, cache_size=0.0)
    check_same(changed, plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 48},
        pytest.param({"seed": 1}, marks=pytest.mark.slow),
        pytest.param({"backbone": "timm/test_resnet"}, marks=pytest.mark.slow),
    ],
)
def test_another_network_or_size_gets_features_of_its_own(split_photos, change):
    hear(split_photos, "first", **start(train="probe"))
    fields = start(change.get("backbone", TINY), seed=change.get("seed", 0), train="probe")
    fields["image_size"] = change.get("image_size", 32)
    other, _, computed = hear(split_photos, "other", **fields)
    # Other weights change nothing for a network with random ones.
    random = {} if "seed" in change else {RANDOM: 24}
    assert computed == {"features": 24, "val features": 12, **random}
    plain, _, _ = hear(split_photos, "plain", **fields, cache_size=0.0)
    check_same(other, plain)


@pytest.mark.slow
def test_another_seed_of_the_run_finds_the_features(split_photos):
    hear(split_photos, "first", **start(train="probe"))
    _, _, computed = hear(split_photos, "other", **start(train="probe"), seed=1)
    assert computed == {}


@pytest.mark.slow
def test_pictures_that_are_there_twice_are_computed_once(split_photos, tmp_path):
    data = shutil.copytree(split_photos, tmp_path / "data")
    for n in range(3):
        shutil.copy(data / "train/red/0.png", data / f"train/red/copy{n}.png")
    for name, case in {
        "features": {"train": "probe"},
        "activations": {"train": "finetune", "freeze": 3, "augment": "none", "epochs": 2},
    }.items():
        fields = start(**case)
        cached, _, computed = hear(data, name, **fields)
        random = {RANDOM: 24} if name == "features" else {}
        assert computed == {name: 24, f"val {name}": 12, **random}
        plain, notes, _ = hear(data, f"{name}-plain", **fields, cache_size=0.0)
        assert not any("1 of them from the cache" in note for note in notes)
        check_same(cached, plain)


@pytest.mark.slow
def test_what_a_device_rounds_is_not_taken_for_anothers(split_photos):
    hear(split_photos, "run", **start(train="probe+finetune", freeze=3))
    kinds = {entry.kind for entry in cache.stored() if entry.about.get("device") == "cpu"}
    assert kinds == {"features", "activations"}
