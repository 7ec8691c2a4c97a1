"""What looks the same is found without comparing each with each, however many look the same."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from zoo.data.check.compare import CLOSE, Photo, compare, compare_splits
from zoo.data.check.examine import Examined
from zoo.data.check.findings import of_comparison
from zoo.data.check.fix import decide
from zoo.data.check.hamming import close_pairs


def flipped(centres, share, random):
    """Hashes of 256 bits, each bit of the centres another with that probability."""
    return centres ^ np.packbits(random.random((len(centres), 256)) < share, axis=1)


def blurred(random, count=400, groups=20):
    """Groups of hashes that differ within by more and less than 30 bits."""
    centres = random.integers(0, 256, (groups, 32), dtype=np.uint8)
    share = random.choice([0.0, 0.03, 0.06], (count, 1))
    return flipped(centres[random.integers(0, groups, count)], share, random)


def drifting(count):
    """Each differs by one bit from the one before: neighbours look the same, the ends do not."""
    random = np.random.default_rng(0)
    flips = np.zeros((count, 256), np.uint8)
    flips[np.arange(count), random.integers(0, 256, count)] = 1
    return np.packbits(np.bitwise_xor.accumulate(flips, axis=0), axis=1)


def alike(count):
    random = np.random.default_rng(0)
    return flipped(np.zeros((count, 32), np.uint8), 0.04, random)


def different(count):
    return np.random.default_rng(0).integers(0, 256, (count, 32), dtype=np.uint8)


def photos_of(hashes, splits=("train", "train", "train", "val"), labels=("ants", "bees")):
    random = np.random.default_rng(1)
    return tuple(
        Photo(
            path=f"{split}/{label}/{n}.png",
            labels=(label,),
            split=split,
            examined=Examined(content=f"{n:032x}", looks=each.tobytes().hex(), format="PNG"),
        )
        for n, (each, split, label) in enumerate(
            zip(
                hashes,
                random.choice(splits, len(hashes)),
                random.choice(labels, len(hashes)),
                strict=True,
            )
        )
    )


def connected(edges):
    """Groups of indices by comparing each with each."""
    groups = []
    left = set(np.flatnonzero(edges.any(axis=1)).tolist())
    while left:
        group, new = set(), {left.pop()}
        while new:
            group |= new
            new = set(np.flatnonzero(edges[list(new)].any(axis=0)).tolist()) - group
        left -= group
        groups.append(frozenset(group))
    return set(groups)


@pytest.mark.parametrize("hashes", [blurred, lambda random: drifting(400)])
@pytest.mark.parametrize("seed", range(3))
def test_the_groups_are_those_that_comparing_each_with_each_finds(seed, hashes):
    hashes = hashes(np.random.default_rng(seed))
    photos = photos_of(hashes)
    index = {photo.path: n for n, photo in enumerate(photos)}
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    close = (apart <= CLOSE) & ~np.eye(len(hashes), dtype=bool)
    split = np.array([photo.split for photo in photos])
    label = np.array([photo.label for photo in photos])
    one_split = split[:, None] == split[None]
    one_label = label[:, None] == label[None]
    found = compare(photos)
    for groups, edges in (
        (found.near_conflicts, close & one_split & ~one_label),
        (found.near_duplicates, close & one_split & one_label),
    ):
        assert {frozenset(index[p.path] for p in group) for group in groups} == connected(edges)
    leaks = close & ~one_split
    assert {index[p.path] for group in found.near_leaks for p in group} == set(
        np.flatnonzero(leaks.any(axis=1)).tolist()
    )
    for group in found.near_leaks:
        of_val = [index[photo.path] for photo in group if photo.split == "val"]
        of_train = [index[photo.path] for photo in group if photo.split == "train"]
        assert group[0].split == "val"
        assert leaks[np.ix_(of_val, of_train)].all()


def test_pairs_at_the_limit_are_found_among_thousands_of_others():
    random = np.random.default_rng(0)
    hashes = different(20_000)
    flips = np.zeros((1000, 256), bool)
    for row in flips:
        row[random.choice(256, CLOSE, replace=False)] = True
    hashes[1000:2000] = hashes[:1000] ^ np.packbits(flips, axis=1)
    photos = photos_of(hashes, splits=("train",), labels=("ants",))
    found = compare(photos).near_duplicates
    assert [len(group) for group in found] == [2] * 1000


def test_of_one_val_image_among_thousands_that_look_like_it_all_leak():
    photos = list(photos_of(alike(2000), splits=("train",)))
    photos[700] = replace(photos[700], path="val/ants/0.png", split="val")
    (leak,) = compare(photos).near_leaks
    assert leak[0].path == "val/ants/0.png"
    assert len(leak) > 1990


def test_the_same_is_found_in_any_order():
    photos = photos_of(blurred(np.random.default_rng(0)))
    assert compare(photos) == compare(photos[::-1])


@pytest.mark.parametrize("hashes", [alike, drifting, different])
@pytest.mark.slow
def test_pairs_and_memory_grow_with_the_number_of_images_alone(hashes):
    pairs, peaks = [], []
    for count in (1000, 4000):
        photos = photos_of(hashes(count))
        codes = np.array([[p.split == "val", p.label == "bees"] for p in photos]).astype(np.intp)
        pairs.append(sum(len(one) for one, *_ in close_pairs(hashes(count), CLOSE, *codes.T)))
        tracemalloc.start()
        of_comparison(compare(photos))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert pairs[1] <= 5 * max(pairs[0], 1)
    assert peaks[1] <= 4.5 * peaks[0]
    assert peaks[1] < 1000 * 4000


@pytest.mark.parametrize("copies", ["content", "hash"])
def test_what_a_clean_copy_lacks_is_named_with_ten_of_the_images_it_is_like(copies):
    def photo(n):
        examined = Examined(
            content=f"{n if copies == 'hash' else 0:032x}", looks="5a" * 32, format="PNG"
        )
        split = "val" if n < 40 else "train"
        return Photo(path=f"{split}/ants/{n}.png", labels=("ants",), split=split, examined=examined)

    photos = tuple(photo(n) for n in range(100))
    lacking = [each for each in decide(photos, [compare(photos)]) if each.path.startswith("train")]
    assert len(lacking) == 60
    for each in lacking:
        assert len(each.others) == 10
        assert each.path not in each.others
        assert len(each.others) + each.more == (40 if copies == "hash" else 99)


def test_of_nothing_and_of_one_there_are_no_pairs():
    for count in (0, 1):
        codes = np.zeros(count, np.intp)
        assert not sum(len(one) for one, *_ in close_pairs(different(count), CLOSE, codes, codes))
        assert compare(photos_of(different(count))).near_duplicates == ()


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("", "test")])
@pytest.mark.medium
def test_without_what_is_left_out_nothing_leaks_into_val_or_test(splits):
    labels = (*("ants",) * 9, "bees")
    for seed in range(12):
        random = np.random.default_rng(seed)
        hashes = blurred(random, count=25, groups=6)
        same = [int(n) for n in random.integers(0, 25, 50)]
        photos = tuple(
            replace(photo, examined=replace(photo.examined, content=f"{n:032x}"))
            for n, photo in zip(same, photos_of(hashes[same], splits, labels), strict=True)
        )
        left_out = {each.path for each in decide(photos, compare_splits(photos))}
        assert not any(path.startswith("test") for path in left_out)
        kept = [photo for photo in photos if photo.path not in left_out]
        val, test, _ = compare_splits(kept)
        leaks = (*val.leaks, *val.near_leaks, *test.leaks, *test.near_leaks)
        assert leaks == ()
        assert {photo.split for group in val.conflicts for photo in group} <= {"test"}
        assert decide(kept, [val, test]) == []
