import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from tests.runs.forging import forge
from zoo.errors import DataError, PluginError, RunError
from zoo.runs.write import write_file

MODEL = "model.safetensors"


@pytest.fixture
def model_file(run, tmp_path) -> Path:
    return Path(shutil.copy(run.path / MODEL, tmp_path / "elsewhere.safetensors"))


def test_the_file_alone_predicts_as_the_folder_does(run, model_file, split_photos):
    images = sorted((split_photos / "val").rglob("*.png"))
    assert zoo.load(model_file).predict(images) == run.predict(images)


def test_predictions_name_classes_by_probability(run, split_photos):
    prediction = run.predict(split_photos / "val" / "red" / "0.png", top_k=2)[0]
    assert prediction.path == split_photos / "val" / "red" / "0.png"
    assert (prediction.label, prediction.probability) == prediction.top[0]
    assert len(prediction.top) == 2
    assert prediction.top[0][1] >= prediction.top[1][1]


def test_images_in_memory_are_predicted_as_their_files(run, split_photos):
    path = split_photos / "val" / "green" / "1.png"
    image = Image.open(path)
    of_file, of_image, of_array = (
        run.predict(i)[0].top for i in (str(path), image, np.asarray(image))
    )
    assert of_file == of_image == of_array
    assert run.predict(path.read_bytes())[0].top == of_file
    with path.open("rb") as file:
        assert run.predict(file)[0].top == of_file
    assert [p.top for p in run.predict([io.BytesIO(path.read_bytes()), image])] == 2 * [of_file]
    assert run.predict(np.asarray(image.convert("RGBA")))[0].top == of_file
    grey = np.asarray(image.convert("L"))
    assert run.predict(grey[..., None])[0].top == run.predict(grey)[0].top
    assert run.predict([]) == []
    with pytest.raises(DataError, match=r"uint8, got \(4, 4, 3\) float32"):
        run.predict(np.zeros((4, 4, 3), np.float32))
    for wrong, named in (
        (3, "int"),
        (None, "NoneType"),
        ([None], "NoneType"),
        (io.StringIO("text"), "str"),
        (b"text", "bytes"),
        (np.zeros((0, 4, 3), np.uint8), "pixels"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (Image.new("RGB", (0, 0)), "pixels"),
        ("https://example.org/a.png", "https://example.org/a.png"),
    ):
        with pytest.raises(DataError, match=named):
            run.predict(wrong)
    with pytest.raises(DataError, match="top_k"):
        run.predict(image, top_k=0)
    with pytest.raises(DataError, match=r"nowhere\.png"):
        run.predict("nowhere.png")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"zoo_format": None}, ""),
        ({"zoo_format": "99"}, "99"),
        ({"class_names": "not json"}, ""),
        ({"class_names": '{"a": 1}'}, "class_names: "),
        ({"preprocess": '{"size": "big"}'}, ""),
        ({"preprocess": '{"sise": 3}'}, "sise"),
        ({"recipe": "lr = "}, ""),
        ({"recipe": None}, "'recipe'"),
    ],
)
def test_metadata_that_is_not_zoos_is_refused(model_file, changes, named):
    forged = forge(model_file, **changes)
    with pytest.raises(RunError, match=rf"{forged.name}.*{named}"):
        zoo.load(forged)


def test_a_backbone_that_is_not_installed_is_named(model_file):
    with pytest.raises(PluginError, match=r"elsewhere\.safetensors .*acme/net"):
        zoo.load(forge(model_file, backbone="acme/net"))


@pytest.mark.parametrize("make", [lambda p: None, Path.mkdir, lambda p: p.write_bytes(b"x")])
def test_what_is_no_run_is_refused(tmp_path, make):
    make(tmp_path / "thing")
    with pytest.raises(RunError, match=str(tmp_path / "thing")):
        zoo.load(tmp_path / "thing")


def test_class_names_survive_whatever_they_are(photos, tmp_path):
    from tests.conftest import QUICK

    root = shutil.copytree(photos, tmp_path / "data")
    names = ["été | *bold*", "日本", 'quo"te']
    for old, new in zip(("blue", "green", "red"), names, strict=True):
        (root / old).rename(root / new)
    run = zoo.finetune(root, out=tmp_path / "run", **QUICK)
    assert set(run.class_names) == set(names)
    assert set(json.loads((run.path / "config.json").read_text())["label_names"]) == set(names)
    assert r"| été \| \*bold\* | 8 | 2 |" in (run.path / "README.md").read_text()


def test_a_failed_write_keeps_the_older_file(monkeypatch):
    write_file(Path("a.txt"), b"old")
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(RunError, match=r"a\.txt: No space"):
        write_file(Path("a.txt"), b"new")
    assert Path("a.txt").read_bytes() == b"old"
    assert [p.name for p in Path().iterdir()] == ["a.txt"]


def test_a_run_is_shown_in_one_line(run):
    shown = repr(run)
    assert len(shown) < 200
    assert shown.isprintable()
    for fact in (
        repr(run.path.name),
        run.info.backbone,
        "classes=3",
        f"val_accuracy={run.info.val_accuracy:.4g}",
        f"epoch={run.info.epoch}",
    ):
        assert fact in shown


def test_a_notebook_shows_a_run_with_its_name_escaped(run, tmp_path):
    folder = tmp_path / "<b>&\x1b[31m"
    shutil.copytree(run.path, folder)
    shown = zoo.load(folder)._repr_html_()
    assert r"&lt;b&gt;&amp;\x1b[31m" in shown
    assert "<b>" not in shown
    assert run.info.backbone in shown
    assert f"{run.info.val_accuracy:.4g}" in shown
    assert len(shown) < 1000
