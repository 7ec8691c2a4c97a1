"""Shifted test sets are found; other class frequencies and groups are not taken for a shift."""

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.conftest import QUICK
from zoo.data.sample import Sample
from zoo.events import Note
from zoo.features.shift import measure_shift
from zoo.runs.read import read_info
from zoo.runs.scores import Scores
from zoo.tasks import MULTI_LABEL, SINGLE_LABEL

CENTRES = 3 * torch.randn(12, 50, generator=torch.Generator().manual_seed(9))


def drawn(
    split: str, counts: tuple[int, ...], seed: int, *, moved: float = 0.0, group: int = 1
) -> Scores:
    """Features around the centres of classes; images of a group share half of their noise."""
    random = torch.Generator().manual_seed(seed)
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    number = torch.arange(len(targets)) // group
    noise = torch.randn(len(targets), 50, generator=random)
    shared = torch.randn(len(targets), 50, generator=random)[number]
    features = CENTRES[targets] + (noise + 2 * shared if group > 1 else noise)
    features[:, 0] += moved
    names = [f"{split}{seed}-{n}" for n in range(len(targets))]
    samples = [
        Sample(
            name=name,
            labels=("x",),
            load=lambda: b"",
            group=f"{split}{seed}-{n}" if group > 1 else None,
        )
        for name, n in zip(names, number.tolist(), strict=True)
    ]
    return Scores(
        split=split,
        samples=samples,
        targets=targets,
        logits=torch.zeros(len(targets), len(counts)),
        features=features,
    )


def p_of(known: Scores, test: Scores) -> float:
    return measure_shift(known, test, SINGLE_LABEL, seed=0).p


def test_a_moved_feature_is_found():
    known = drawn("val", (40, 40, 40), 0)
    found = measure_shift(known, drawn("test", (60, 60, 60), 1, moved=1.5), SINGLE_LABEL, seed=0)
    assert found.found
    assert found.known == "val"
    assert found.separation > 0.7


@pytest.mark.parametrize("group", [1, 5])
def test_other_class_frequencies_and_groups_are_no_shift(group):
    ps = [
        p_of(
            drawn("val", (50, 20, 10), seed, group=group),
            drawn("test", (10, 20, 70), 100 + seed, group=group),
        )
        for seed in range(10)
    ]
    assert sum(p < 0.05 for p in ps) <= 2
    assert np.mean(ps) > 0.3


def test_classes_that_are_on_one_side_do_not_count():
    known, test = drawn("val", (40, 40, 0), 0), drawn("test", (40, 40, 40), 1)
    assert p_of(known, test) > 0.01
    assert (
        measure_shift(
            drawn("val", (40, 0, 0), 0), drawn("test", (5, 40, 40), 1), SINGLE_LABEL, seed=0
        )
        is None
    )


@pytest.mark.parametrize(("images", "measured"), [(1, False), (12, True)])
def test_where_images_can_not_change_places_nothing_is_measured(images, measured):
    """One val image of each of 12 classes, and one or several test images, moved far away."""
    known, test = drawn("val", (1,) * 12, 0), drawn("test", (images,) * 12, 1, moved=9)
    found = measure_shift(known, test, SINGLE_LABEL, seed=0)
    assert (found is not None and found.found) is measured


def test_label_sets_are_strata():
    known, test = drawn("val", (40, 40, 40), 0), drawn("test", (40, 40, 40), 1, moved=2)
    several = [
        Scores(**{**vars(s), "targets": torch.nn.functional.one_hot(s.targets).float()})
        for s in (known, test)
    ]
    assert measure_shift(*several, MULTI_LABEL, seed=0).found


def photos(folder, count: int, seed: int, *, brighter: float = 0.0):
    random = np.random.default_rng(seed)
    for n in range(count):
        colour = np.array([(200, 60, 60), (60, 60, 200)][n % 2])
        pixels = colour + brighter + random.normal(0, 25) + random.normal(0, 30, (40, 40, 3))
        place = folder / ("red", "blue")[n % 2] / f"{seed}-{n}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place)


@pytest.mark.medium
@pytest.mark.parametrize("brighter", [0.0, 90.0])
def test_a_run_warns_of_a_shifted_test_set(tmp_path, brighter):
    photos(tmp_path / "data" / "train", 20, 0)
    photos(tmp_path / "data" / "val", 24, 1)
    photos(tmp_path / "data" / "test", 24, 2, brighter=brighter)
    warned = []

    def listen(event):
        if isinstance(event, Note) and event.warning:
            warned.append(event.text)

    fields = {**QUICK, "train": "probe"}
    run = zoo.finetune(tmp_path / "data", out=tmp_path / "run", listen=listen, **fields)
    assert read_info(run.path / "model.safetensors").shift == run.info.shift
    assert run.info.shift.known == "val"
    assert run.info.shift.found is any("another source" in text for text in warned)
    assert run.info.shift.found is bool(brighter)
    for name in ("README.md", "report.html"):
        assert ("another source" in (run.path / name).read_text()) is bool(brighter)
