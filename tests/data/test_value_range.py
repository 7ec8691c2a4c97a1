"""Images with more than 8 bits a channel, or with more bands than three."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from tests.conftest import QUICK, zoo_
from zoo.data.image import read_image
from zoo.events import Note


def grey_photos(root: Path, bits: int) -> Path:
    """Dark and light pictures; those of all bits are the same when 255 is the lightest."""
    for label, level in (("dark", 60), ("light", 180)):
        for n in range(8):
            noise = np.random.default_rng([level, n]).integers(-50, 50, (32, 32))
            levels = level + noise
            levels[0, 0], levels[0, 1] = 0, 255
            path = root / label / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = np.round(levels * ((2**bits - 1) / 255))
            Image.fromarray(stored.astype(np.uint8 if bits == 8 else np.uint16)).save(path)
    return root


@pytest.fixture(scope="module")
def of_8_bits(tmp_path_factory):
    root = grey_photos(tmp_path_factory.mktemp("grey") / "8", 8)
    fields = {**QUICK, "train": "probe+finetune"}
    return root, zoo.finetune(root, out=tmp_path_factory.mktemp("run") / "8", **fields)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bits", [10, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (12, 16))]
)
def test_bits_that_a_camera_leaves_unused_change_nothing(tmp_path, of_8_bits, bits):
    small, expected = of_8_bits
    root = grey_photos(tmp_path / "deep", bits)
    run = zoo.finetune(root, out="run", **{**QUICK, "train": "probe+finetune"})
    assert run.info.preprocess.value_range == (0, 2**bits - 1)
    read = zoo.load("run")
    for image in ("dark/1.png", "light/2.png"):
        assert read.predict(root / image)[0].top == expected.predict(small / image)[0].top
        content = (root / image).read_bytes()
        assert read.predict(content)[0].top == expected.predict(small / image)[0].top
    assert read.evaluate().accuracy == expected.evaluate().accuracy
    listed = zoo_("predict", "run", str(root / "dark"), "--format", "json")
    plain = zoo_("predict", str(expected.path), str(small / "dark"), "--format", "json")
    assert listed.stdout == plain.stdout.replace(str(small), str(root))


def test_the_plan_says_what_becomes_white(tmp_path):
    root = grey_photos(tmp_path / "deep", 12)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]
    result = zoo_("finetune", "--data", str(root), "--dry-run", *flags)
    assert "0 to 4095 become 0 to 255" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("dtype", "low", "high", "expected"),
    [
        (np.float32, 0.0, 1.0, (0.0, 1.0)),
        (np.float32, -1.0, 1.0, (-1.0, 1.0)),
        (np.int32, 0, 200, (0.0, 255.0)),
        (np.int32, 0, 100_000, (0.0, 100_000.0)),
        (np.uint16, 100, 130, (0.0, 255.0)),
    ],
)
@pytest.mark.medium
def test_the_range_is_that_of_all_images(tmp_path, dtype, low, high, expected):
    """The lightest picture of the set is white, not the lightest spot of each picture."""
    for label in ("a", "b"):
        for n in range(4):
            share = 0.25 if (label, n) != ("a", 0) else 1.0
            pixels = np.linspace(low, low + (high - low) * share, 64 * 64)
            np.random.default_rng([n, label == "a"]).shuffle(pixels)
            pixels = pixels.reshape(64, 64)
            path = tmp_path / "data" / label / f"{n}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(dtype)).save(path)
    splits = zoo.finetune(tmp_path / "data", out="run", **{**QUICK, "val_split": 0.3})
    found = splits.info.preprocess.value_range
    if found != expected:  # the one light picture may be held out
        assert found[1] < expected[1]
    image = read_image(tmp_path / "data" / "b" / "1.tif", value_range=expected)
    darkest, lightest = np.asarray(image).min(), np.asarray(image).max()
    span = expected[1] - expected[0]
    assert abs(lightest - (low + (high - low) * 0.25 - expected[0]) / span * 255) <= 1
    assert abs(darkest - (low - expected[0]) / span * 255) <= 1


def test_a_fourth_band_that_is_dropped_is_named(tmp_path):
    for label in ("a", "b"):
        for n in range(4):
            path = tmp_path / "data" / label / f"{n}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([n, label == "a"]).integers(0, 255, (64, 64, 4))
            Image.frombytes("RGBX", (64, 64), pixels.astype(np.uint8).tobytes()).save(path)
    (finding,) = (
        f for f in zoo.check_data(tmp_path / "data").findings if f.kind == "dropped-bands"
    )
    assert (finding.severity, finding.count) == ("warning", 8)
    events = []
    zoo.finetune(tmp_path / "data", out="run", listen=events.append, **QUICK)
    warnings = [e.text for e in events if isinstance(e, Note) and e.warning]
    assert len([text for text in warnings if "bands" in text]) == 1
