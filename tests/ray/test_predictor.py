"""`zoo.ray.Predictor`, called as Ray Data calls it."""

import numpy as np
import pyarrow
import pytest
from PIL import Image

import zoo
from tests.ray.conftest import assert_same, images_in
from zoo.errors import DataError


@pytest.fixture(scope="module")
def predictor(run):
    return zoo.ray.Predictor(run.path, device="cpu")


def test_bytes_paths_and_arrow_have_the_rows_of_predict(predictor, folder, expected):
    paths = images_in(folder)
    texts = np.array([str(path) for path in paths], dtype=object)
    encoded = [path.read_bytes() for path in paths]
    structs = [{"bytes": each, "path": None} for each in encoded]
    for batch in (
        {"path": texts},
        {"bytes": np.array(encoded, dtype=object), "path": texts},
        {"image": np.array(structs, dtype=object), "path": texts},
        pyarrow.table({"bytes": encoded, "path": list(texts)}),
    ):
        found = predictor(batch)
        assert_same(found, expected)
        assert found.schema.metadata == expected.schema.metadata
    assert found.column("error").null_count == len(paths) - 1


def test_arrays_are_images_too(predictor, run, folder):
    path = next(folder.rglob("*.png"))
    pixels = np.array(Image.open(path).convert("RGB"))
    (row,) = predictor({"image": pixels[None]}).to_pylist()
    assert row["path"] is None
    assert row["label"] == run.predict(path)[0].label


def test_other_columns_are_kept_with_their_types(run, folder):
    path = str(next(folder.rglob("*.png")))
    predictor = zoo.ray.Predictor(run.path, device="cpu", column="file")
    batch = {
        "file": np.array([path]),
        "number": np.array([7], np.int16),
        "box": np.zeros((1, 2, 2)),
        "when": np.array(["2026-01-01"], "datetime64[s]"),
    }
    found = predictor(batch)
    assert found.column_names[:5] == ["number", "box", "when", "path", "label"]
    assert found.column("number").type == pyarrow.int16()
    assert found.column("path").to_pylist() == [path]
    assert found.column("box").chunk(0).to_numpy_ndarray().shape == (1, 2, 2)
    with pytest.raises(DataError):
        predictor({"path": np.array([path])})


def test_a_column_that_predictions_have_is_not_overwritten(predictor):
    with pytest.raises(DataError) as error:
        predictor({"path": np.array(["a.jpg"]), "label": np.array(["cat"])})
    assert "label" in str(error.value)


def test_missing_images_and_addresses_are_errors_of_their_rows(predictor, folder):
    path = str(next(folder.rglob("*.png")))
    table = pyarrow.table({"path": [path, None, "gone.jpg", "https://example.invalid/a.jpg"]})
    rows = predictor(table).to_pylist()
    assert [row["label"] is None for row in rows] == [False, True, True, True]
    assert [row["error"] is None for row in rows] == [True, False, False, False]
    assert predictor(table.slice(0, 0)).schema == predictor(table).schema


def test_what_is_asked_is_that_of_predict(run, folder):
    predictor = zoo.ray.Predictor(
        run.path, device="cpu", top_k=2, min_confidence=1.0, tta="hflip", column="path"
    )
    paths = [str(path) for path in folder.rglob("*.png")]
    found = predictor({"path": np.array(paths)})
    assert found.column_names[-5:] == [
        "tta",
        "label_1",
        "probability_1",
        "label_2",
        "probability_2",
    ]
    for row, each in zip(
        found.to_pylist(),
        run.predict(paths, top_k=2, min_confidence=1.0, tta="hflip"),
        strict=True,
    ):
        assert row["unsure"] == each.unsure
        assert row["tta"] == "hflip"
        assert row["label_2"] == each.top[1][0]
    with pytest.raises(DataError):
        zoo.ray.Predictor(run.path, device="cpu", top_k=0)
