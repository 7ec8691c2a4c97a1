"""CPU time and memory of planning a run on a table of many images, by listing alone.

    python bench/index.py [IMAGES ...]

Each image is a hard link to one of a few files, in folders of a thousand. The table, the folder,
and the table with groups are planned twice, each time in a process of its own: cold, when it is
read and indexed, and warm, from the index. Memory is what planning adds to that of the imported
libraries, on Linux: that of the process alone, mapped files, which all processes on a machine
share, and the most of both at any time.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

#: Names in a folder, links to a file (ext4 allows 65,000), and classes.
_PER_FOLDER, _LINKS, _CLASSES = 1000, 50_000, 1000


def make(folder: Path, images: int) -> Path:
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
    import pyarrow.ipc  # noqa: F401 - before memory is measured

    from zoo.data.decoded import content_keys
    from zoo.planning.inputs import read_data
    from zoo.recipe import make_recipe

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
    print("| images | data | index | CPU, s | own, bytes an image | mapped | peak |")
    print("|---|---|---|---|---|---|---|")
    for images in map(int, sys.argv[1:] or ["200000"]):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "data").mkdir()
            table = make(folder / "data", images)
            sources = {
                "table": [str(table)],
                "folder": [str(table.parent)],
                "table, groups of 10": [str(table), "([0-9]+)[0-9][.]jpg"],
            }
            for name, what in itertools.product(sources, ("cold", "warm")):
                done = subprocess.run(
                    [sys.executable, __file__, "--plan", *sources[name]],
                    env={**os.environ, "ZOO_HOME": str(folder / "home")},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                found = json.loads(done.stdout)
                each = [f"{found[key] / images:.0f}" for key in ("anonymous", "mapped", "peak")]
                costs = " | ".join([f"{found['cpu']:.1f}", *each])
                print(f"| {images:,} | {name} | {what} | {costs} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plan"]:
        plan(*sys.argv[2:])
    else:
        main()
