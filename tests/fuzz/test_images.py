"""Damaged image files, through what people call: a picture, or one line that names the file."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import zoo
from tests.conftest import COLOURS, save_photo
from tests.data.reading import of_kind, read_splits
from tests.fuzz.conftest import fuzz, sizes
from tests.fuzz.images_support import damaged, seeds, within
from zoo.cli import main
from zoo.data.image import read_image
from zoo.data.issue import describe
from zoo.errors import DataError


def is_named(message: str, path: Path) -> bool:
    lines = message.splitlines()
    return len(lines) == 1 and str(path) in message and len(message) < 500 + len(str(path))


def outcome(call):
    """What a call returns, or what a DataError says."""
    try:
        return call(), ""
    except DataError as error:
        return None, str(error)


def check_reading(content: bytes) -> None:
    path = Path("photo.jpg").absolute()
    path.write_bytes(content)
    with within():
        image, problem = outcome(lambda: read_image(path))
    if image is None:
        assert is_named(problem, path)
    else:
        assert image.mode == "RGB"
        assert len(image.tobytes()) == 3 * image.width * image.height


def check_prediction(run: zoo.Run, content: bytes) -> None:
    path = Path("photo.png").absolute()
    path.write_bytes(content)
    with within():
        predictions, problem = outcome(lambda: run.predict(path))
    if predictions is None:
        assert is_named(problem, path)
    else:
        (prediction,) = predictions
        assert prediction.label in run.class_names
        assert sum(p for _, p in prediction.top) == pytest.approx(1)


def check_scan(content: bytes) -> None:
    root = Path("data").absolute()
    if not root.exists():
        for name in ("red", "blue"):
            for n in range(2):
                save_photo(root / name / f"{n}.png", COLOURS[name], n)
    path = root / "red" / "photo.tif"
    path.write_bytes(content)
    with within():
        splits = read_splits(root, val_split=0.5, seed=0)
    found = [s for s in (*splits.train, *splits.val) if s.file == path]
    assert len(found) + len(of_kind("unreadable", splits.issues)) == 1
    assert len(of_kind("wrong-extension", splits.issues)) <= len(found)
    assert all(issue.name == str(path) for issue in splits.issues)
    unreadable = [issue for issue in splits.issues if issue.kind == "unreadable"]
    assert all(is_named(line, path) for line in describe(unreadable, refused=True))


def check_command(run: zoo.Run, content: bytes) -> None:
    path = Path("photo.gif").absolute()
    path.write_bytes(content)
    with within():
        result = CliRunner().invoke(main, ["predict", str(run.path), str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code in (0, 2)
    assert "Traceback" not in result.output
    if result.exit_code:
        problem, count, end = result.stderr.splitlines()
        assert is_named(problem, path)
        assert count == "! 1 unreadable image left out"
        assert end == f"Error: no readable images in {path}"
    else:
        assert result.stdout.startswith(f"{path}  ")
        assert result.stderr == ""


def test_whole_files_of_all_formats_are_read_or_named():
    for content in seeds():
        check_reading(content)


@sizes(15_000, few=80)
def test_a_damaged_file_is_read_or_named(examples):
    fuzz(check_reading, damaged(), examples)


@sizes(1500, few=20)
def test_a_damaged_file_is_predicted_or_named(examples, run):
    fuzz(lambda content: check_prediction(run, content), damaged(), examples)


@sizes(1500, few=20)
def test_a_damaged_file_is_a_sample_or_named(examples):
    fuzz(check_scan, damaged(), examples)


@sizes(500, few=5)
def test_predict_ends_well_with_a_damaged_file(examples, run):
    fuzz(lambda content: check_command(run, content), damaged(), examples)
