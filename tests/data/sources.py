"""The same images in each kind of source."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow
from pyarrow import parquet

from tests.conftest import make_photos

CLASSES = ("blue", "green", "red")


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_shard(path, files, label=None):
    """A shard of KEY.png and what `label` gives of the class: the extension and the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    label = label or (lambda name: ("cls", str(CLASSES.index(name))))
    with tarfile.open(path, "w") as tar:
        for n, file in enumerate(files):
            kind, text = label(file.parent.name)
            add(tar, f"{n:04}.png", file.read_bytes())
            add(tar, f"{n:04}.{kind}", text.encode())
    return path


def write_parquet(path, files, names=CLASSES, rows=5):
    """Images as Hugging Face datasets writes them."""
    feature = {"_type": "ClassLabel", "names": [*names]}
    about = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = [{"bytes": file.read_bytes(), "path": None} for file in files]
    labels = [CLASSES.index(file.parent.name) for file in files]
    table = pyarrow.table({"image": pyarrow.array(images, kind), "label": labels})
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    parquet.write_table(table, path, row_group_size=rows)
    return path


def dataset_of(files, names=CLASSES):
    """A dataset of the library, of encoded images."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    features = {"image": Image(), "label": ClassLabel(names=[*names]), "film": Value("string")}
    columns = {
        "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "label": [CLASSES.index(file.parent.name) for file in files],
        "film": [f"film {file.stem}" for file in files],
    }
    return Dataset.from_dict(columns, features=Features(features))


def write_source(kind, folder):
    """The 24 images of `make_photos` as a source of a kind; what names it as data."""
    photos = make_photos(Path(folder) / "photos", 8)
    files = sorted(photos.rglob("*.png"))
    if kind == "zip":
        return shutil.make_archive(str(photos), "zip", photos)
    if kind == "tar":
        with tarfile.open(f"{photos}.tar", "w") as tar:
            tar.add(photos, "photos")
        return f"{photos}.tar"
    if kind == "shards":
        for n in range(3):
            write_shard(folder / "shards" / f"train-{n:03}.tar", files[n::4])
        write_shard(folder / "shards" / "val-000.tar", files[3::4])
        (folder / "shards" / "classes.txt").write_text("\n".join(CLASSES))
        return str(folder / "shards")
    if kind == "jsonl":
        rows = [{"path": f"photos/{f.parent.name}/{f.name}", "label": f.parent.name} for f in files]
        (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return str(folder / "table.jsonl")
    if kind == "parquet":
        return str(write_parquet(folder / "table.parquet", files))
    dataset_of(files).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


KINDS = ("zip", "tar", "shards", "jsonl", "parquet", "hf")
