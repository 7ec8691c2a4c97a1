"""An image whose extension says another format than it holds: read as what it is, and named."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from tests.conftest import QUICK, zoo_
from tests.data.reading import read_splits
from tests.data.scenes import findings_of, make_scenes, save, scene, settle
from zoo.errors import DataError


def photo(form: str, **options) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, form, **options)
    return file.getvalue()


def two_views() -> bytes:
    return photo("MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))])


def read(root: Path, **options):
    return read_splits(root, val_split=0.2, seed=0, **options)


@pytest.fixture
def root(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "data")


WRONG = [
    ("PNG", "x.jpg"),
    ("JPEG", "x.png"),
    ("WEBP", "x.jpg"),
    ("TIFF", "x.JPG"),
    ("GIF", "x.webp"),
]


@pytest.mark.parametrize(("form", "name"), WRONG)
def test_an_image_of_another_format_is_read_and_named(root, form, name):
    path = root / "red" / name
    path.write_bytes(photo(form))
    splits = read(root)
    assert len(splits.train) + len(splits.val) == 31
    (issue,) = splits.issues
    assert (issue.kind, issue.name, issue.left_out) == ("wrong-extension", str(path), False)
    assert form in issue.reason
    with pytest.raises(DataError) as error:
        read(root, strict=True)
    assert f"{path} (it holds {form})" in str(error.value)
    assert "--fix-to" in str(error.value)


def test_an_extension_of_the_format_or_its_family_is_right(root):
    right = {
        "JPEG": ["a.jpg", "b.JPEG", "c.jpe", "d.jfif", "e.mpo"],
        "PNG": ["a.png", "b.apng"],
        "TIFF": ["a.tif", "b.tiff"],
        "PPM": ["a.ppm", "b.pnm", "c.pgm", "d.pbm"],
        "JPEG2000": ["a.jp2", "b.j2k", "c.jpx"],
        "BMP": ["a.bmp", "b.dib"],
        "DIB": ["c.bmp", "d.dib"],
        "SGI": ["a.sgi", "b.rgb", "c.bw"],
    }
    files = [(name, photo(form)) for form, names in right.items() for name in names]
    files += [("two.jpg", two_views()), ("two.mpo", two_views())]
    for name, content in files:
        (root / "red" / name).write_bytes(content)
    splits = read(root, strict=True)
    assert len(splits.train) + len(splits.val) == 30 + len(files)


@pytest.mark.parametrize("cache_size", [0.0, 1.0])
def test_finetune_names_it_or_refuses_with_strict(root, cache_size):
    for n in range(3):
        (root / "red" / f"x{n}.jpg").write_bytes(photo("PNG"))
    settle(root)
    command = ["finetune", "--data", root, "--backbone", QUICK["backbone"], "--weights", "none"]
    command += ["--image-size", 32, "--dry-run", "--cache-size", cache_size]
    said = " ".join(zoo_(*command).output.split())
    assert said.count("! 3 images ") == 1
    assert "--fix-to" in said
    # Also when what each file holds is remembered.
    zoo_("data", "check", root)
    assert "! 3 images" in " ".join(zoo_(*command).output.split())
    assert "x0.jpg" in zoo_(*command, "--strict", code=2).stderr


def test_evaluate_names_it_or_refuses_with_strict(run, root):
    (root / "red" / "x.jpg").write_bytes(photo("PNG"))
    command = ["evaluate", run.path, "--data", root]
    result = zoo_(*command, "--format", "json")
    assert json.loads(result.stdout)["images"] == 31
    assert json.loads(result.stdout)["issues"] == [
        {
            "kind": "wrong-extension",
            "reason": "it holds PNG",
            "name": str(root / "red" / "x.jpg"),
        }
    ]
    assert "! 1 image " in result.stderr
    assert "x.jpg" in zoo_(*command, "--strict", code=2).stderr


def test_predict_goes_by_the_content(run, root):
    plain = run.predict(root / "red" / "0.png")[0]
    renamed = (root / "red" / "0.png").rename(root / "red" / "0.jpg")
    (misnamed,) = run.predict(renamed)
    assert misnamed.top == plain.top
    listed = json.loads(zoo_("predict", run.path, root / "red", "--format", "json").stdout)
    assert len(listed) == 10


def test_data_check_counts_and_names_it(tmp_path):
    root = make_scenes(tmp_path / "flat", 4)
    for n in range(3):
        save(scene(60 + n), root / "wasps" / f"{n}.jpg", format="PNG")
    report = zoo.check_data(root)
    assert report.counts == {"": {"ants": 4, "bees": 4, "wasps": 3}}
    assert report.images == 11
    assert not report.serious
    assert {f.kind for f in findings_of(report)} == {"wrong-extension"}
    splits = read(root)
    assert splits.class_names == ("ants", "bees", "wasps")
    assert [issue.kind for issue in splits.issues] == ["wrong-extension"] * 3


def test_a_renamed_image_is_judged_anew(tmp_path):
    root = make_scenes(tmp_path / "flat", 4)
    path = save(scene(60), root / "ants" / "a.jpg", format="PNG")
    settle(root)
    assert [f.kind for f in findings_of(zoo.check_data(root))] == ["wrong-extension"]
    assert [f.kind for f in findings_of(zoo.check_data(root))] == ["wrong-extension"]
    path.rename(path.with_suffix(".png"))
    assert findings_of(zoo.check_data(root)) == []
