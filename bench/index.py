"""CPU time and memory of planning a run on many images, by listing alone.

    python bench/index.py [--only KIND,KIND...] [IMAGES ...]

KIND is table, folder, groups, zip, tar, shards, parquet or hf. Each image of a table or a folder is
a hard link to one of a few files, in folders of a thousand; in archives and datasets, images have
100 bytes. Each kind is planned twice, each time in a process of its own: cold, when it is read and
indexed, and warm, from the index. Memory is what planning adds to that of planning a few images,
which imports libraries, on Linux: that of the process alone, mapped files, which all processes on a
machine share, and the most of both at any time.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

#: Names in a folder, links to a file (ext4 allows 65,000), and classes.
_PER_FOLDER, _LINKS, _CLASSES = 1000, 50_000, 1000

#: An image of an archive or a dataset, which planning does not read, and shards of tar files.
_IMAGE, _SHARDS = b"x" * 100, 10


def make_files(folder: Path, images: int) -> Path:
    """Write a table of that many images, and the images; return the table."""
    table = folder / "table.csv"
    with table.open("w") as lines:
        lines.write("path,label\n")
        for n in range(images):
            if n % _LINKS == 0:
                source = folder / f"source-{n}"
                source.write_bytes(b"x" * 1000)
                os.utime(source, (1e9, 1e9))
            parent = folder / f"folder-{n // _PER_FOLDER:05}"
            if n % _PER_FOLDER == 0:
                parent.mkdir()
            (parent / f"image_{n:08}.jpg").hardlink_to(source)
            lines.write(f"{parent.name}/image_{n:08}.jpg,class {n * 7919 % _CLASSES:04}\n")
    os.utime(table, (1e9, 1e9))
    return table


def make_table(folder: Path, images: int) -> list[str]:
    """Return the table of files."""
    return [str(make_files(folder, images))]


def make_folder(folder: Path, images: int) -> list[str]:
    """Return the folder of files."""
    return [str(make_files(folder, images).parent)]


def make_groups(folder: Path, images: int) -> list[str]:
    """Return the table of files, and an expression for groups of 10."""
    return [str(make_files(folder, images)), "([0-9]+)[0-9][.]jpg"]


def make_zip(folder: Path, images: int) -> list[str]:
    """Write a ZIP archive of class folders."""
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for name, label in _named(images):
            archive.writestr(f"class {label:04}/{name}.jpg", _IMAGE)
    return [str(folder / "data.zip")]


def make_tar(folder: Path, images: int) -> list[str]:
    """Write a tar file of class folders."""
    with tarfile.open(folder / "data.tar", "w") as tar:
        for name, label in _named(images):
            _add(tar, f"class {label:04}/{name}.jpg", _IMAGE)
    return [str(folder / "data.tar")]


def make_shards(folder: Path, images: int) -> list[str]:
    """Write tar files in the layout of WebDataset."""
    named = [*_named(images)]
    for n in range(_SHARDS):
        with tarfile.open(folder / f"train-{n:04}.tar", "w") as tar:
            for name, label in named[n::_SHARDS]:
                _add(tar, f"{name}.jpg", _IMAGE)
                _add(tar, f"{name}.cls", str(label).encode())
    return [str(folder)]


def make_parquet(folder: Path, images: int) -> list[str]:
    """Write a Parquet file that holds the images."""
    import pyarrow
    from pyarrow import parquet

    named = [*_named(images)]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    cells = pyarrow.array([{"bytes": _IMAGE, "path": f"{name}.jpg"} for name, _ in named], kind)
    table = pyarrow.table({"image": cells, "label": [f"class {label:04}" for _, label in named]})
    parquet.write_table(table, folder / "data.parquet", row_group_size=1000)
    return [str(folder / "data.parquet")]


def make_hf(folder: Path, images: int) -> list[str]:
    """Write a dataset of the library datasets."""
    from datasets import ClassLabel, Dataset, Features, Image

    labels = ClassLabel(names=[f"class {label:04}" for label in range(_CLASSES)])
    columns = {
        "image": [{"bytes": _IMAGE, "path": None}] * images,
        "label": [label for _, label in _named(images)],
    }
    features = Features({"image": Image(), "label": labels})
    Dataset.from_dict(columns, features=features).save_to_disk(folder / "data")
    return [str(folder / "data")]


#: Functions that make the data of a kind, and return the arguments of `plan`.
KINDS: dict[str, Callable[[Path, int], list[str]]] = {
    "table": make_table,
    "folder": make_folder,
    "groups": make_groups,
    "zip": make_zip,
    "tar": make_tar,
    "shards": make_shards,
    "parquet": make_parquet,
    "hf": make_hf,
}


def _named(images: int) -> Iterator[tuple[str, int]]:
    """Yield the name and the class of each image."""
    return ((f"image_{n:08}", n * 7919 % _CLASSES) for n in range(images))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def memory() -> dict[str, int]:
    """Return the memory of this process that is mapped from files, and the rest, in bytes."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    )
    kib = {name: int(value.split()[0]) for name, value in fields.items()}
    return {
        "mapped": 1024 * (kib["Rss"] - kib["Anonymous"]),
        "anonymous": 1024 * kib["Anonymous"],
    }


def plan(data: str, group_by: str | None = None) -> None:
    """Plan a run on the data, and print what it costs."""
    if (Path(data) / "state.json").is_file():
        import datasets  # noqa: F401 - before memory is measured

    from zoo.data.decoded import content_keys
    from zoo.planning.inputs import read_data
    from zoo.recipe import make_recipe

    with tempfile.TemporaryDirectory() as folder:
        few = make_files(Path(folder), 2 * _CLASSES)
        read_data(make_recipe(None, data=str(few), scan="none"), lambda event: None)
    recipe = make_recipe(None, data=data, scan="none", group_by=group_by)
    before, used = memory(), sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    splits = read_data(recipe, lambda event: None)
    keys = [content_keys(split) for split in (splits.train, splits.val)]
    after = memory()
    found = {
        "cpu": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - used,
        "anonymous": after["anonymous"] - before["anonymous"],
        "mapped": after["mapped"] - before["mapped"],
        "peak": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak),
        "images": sum(map(len, keys)),
    }
    print(json.dumps(found))


def main() -> None:
    """Print a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int, nargs="*", default=[200_000])
    parser.add_argument("--only", type=lambda text: text.split(","), default=[*KINDS])
    given = parser.parse_args()
    print("| images | data | index | CPU, s | own, bytes an image | mapped | peak |")
    print("|---|---|---|---|---|---|---|")
    for images, kind in itertools.product(given.images, given.only):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "data").mkdir()
            arguments = KINDS[kind](folder / "data", images)
            # Files of this time are read again each time.
            for file in (folder / "data").rglob("*"):
                os.utime(file, (1e9, 1e9))
            for what in ("cold", "warm"):
                done = subprocess.run(
                    [sys.executable, __file__, "--plan", *arguments],
                    env={**os.environ, "ZOO_HOME": str(folder / "home")},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                found = json.loads(done.stdout)
                each = [f"{found[key] / images:.0f}" for key in ("anonymous", "mapped", "peak")]
                costs = " | ".join([f"{found['cpu']:.1f}", *each])
                print(f"| {images:,} | {kind} | {what} | {costs} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plan"]:
        plan(*sys.argv[2:])
    else:
        main()
