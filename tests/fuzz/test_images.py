"""Damaged image files, through what people call: a picture, or one line that names the file."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings

import zoo
from tests.conftest import COLOURS, save_photo
from tests.data.reading import of_kind, read_splits
from tests.fuzz.images_support import damaged, seeds, within
from zoo.cli import main
from zoo.data.image import read_image
from zoo.data.issue import describe
from zoo.errors import DataError


def examples(count):
    """The same ones in each run; `count` of them."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


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


@examples(80)
@given(damaged())
def test_a_damaged_file_is_read_or_named(content):
    check_reading(content)


@examples(20)
@given(content=damaged())
def test_a_damaged_file_is_predicted_or_named(run, content):
    check_prediction(run, content)


@examples(20)
@given(damaged())
def test_a_damaged_file_is_a_sample_or_named(content):
    check_scan(content)


@examples(5)
@given(content=damaged())
def test_predict_ends_well_with_a_damaged_file(run, content):
    check_command(run, content)


@pytest.mark.slow
@examples(15_000)
@given(damaged())
def test_thousands_of_damaged_files_are_read_or_named(content):
    check_reading(content)


@pytest.mark.slow
@examples(1500)
@given(content=damaged())
def test_hundreds_of_damaged_files_are_predicted_or_named(run, content):
    check_prediction(run, content)


@pytest.mark.slow
@examples(1500)
@given(damaged())
def test_hundreds_of_damaged_files_are_samples_or_named(content):
    check_scan(content)


@pytest.mark.slow
@examples(500)
@given(content=damaged())
def test_predict_ends_well_with_hundreds_of_damaged_files(run, content):
    check_command(run, content)
