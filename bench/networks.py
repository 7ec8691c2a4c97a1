"""Count parameters and multiply-accumulates of networks whose libraries don't publish them.

    python bench/networks.py

Adds what is missing to networks.csv of the plugins zoo_timm and zoo_transformers, with which
`zoo backbones` answers without building a network. A file that was written with another version of
its library is written again. An interrupted count of timm's networks continues where it stopped; a
complete one takes about half an hour on one core.

Networks are built on torch's meta device: nothing is computed, and the size of a network costs no
memory. A network is counted once for each input size and class count of its published weights.
"""

from __future__ import annotations

import csv
from pathlib import Path

import timm
import torch
import transformers

import zoo_timm
import zoo_transformers
from zoo import plugins
from zoo.io.files import replacing
from zoo.testing.subject import Subject
from zoo.training.flops import flops_per_image

Key = tuple[str, int, int, int]

FILE = Path(zoo_timm.__file__).with_name("networks.csv")

COLUMNS = ("architecture", "height", "width", "classes", "parameters", "macs")

#: The first line of the file.
VERSION = f"# timm {timm.__version__}"

#: transformers' networks of default configuration, which it has no pretrained weights for.
TRANSFORMERS = Path(zoo_transformers.__file__).with_name("networks.csv")

#: Parts of the names of the largest networks, which are counted last.
LARGE = ("gigantic", "enormous", "giant", "huge", "7b", "large")


def main() -> None:
    """Count what the file lacks, a row at a time, then sort it."""
    wanted = published()
    rows = {key: counts for key, counts in read().items() if key in wanted}
    write(rows)
    with FILE.open("a", newline="", encoding="utf-8") as file:
        for key in sorted(wanted.keys() - rows.keys(), key=_moment):
            rows[key] = count(wanted[key])
            csv.writer(file, lineterminator="\n").writerow((*key, *rows[key]))
            file.flush()
    write(rows)
    write_transformers()


def published() -> dict[Key, str]:
    """The first of the names, with or without a tag, of each of timm's that differs in size."""
    named: dict[Key, str] = {}
    for backbone in plugins.backbones("timm/*"):
        bare = backbone.name.partition("/")[2]
        for name in (bare, *(f"{bare}.{tag}" for tag in backbone.tagged)):
            cfg = timm.get_pretrained_cfg(name)
            _, height, width = cfg.input_size
            named.setdefault((bare, height, width, cfg.num_classes), f"timm/{name}")
    return named


def count(name: str) -> tuple[int, int]:
    """Parameters of a network with its original head, and its multiply-accumulates per image."""
    subject = Subject(plugins.get(name), torch.device("meta"))
    model = subject.original.eval()
    parameters = sum(p.numel() for p in model.parameters())
    # Of one image: what some compute once per batch would be halved with two.
    return parameters, round(flops_per_image(model, subject.images()[:1]) / 2)


def read() -> dict[Key, tuple[int, int]]:
    """What the file already contains, if it was written with this version of timm."""
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    if lines[:1] != [VERSION]:
        return {}
    rows = (line.split(",") for line in lines[2:])
    return {(a, int(h), int(w), int(n)): (int(p), int(m)) for a, h, w, n, p, m in rows}


def write(rows: dict[Key, tuple[int, int]]) -> None:
    """Write the file, sorted."""
    with replacing(FILE) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        file.write(f"{VERSION}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((*key, *rows[key]) for key in sorted(rows))


def write_transformers() -> None:
    """Count transformers' networks, if the file was written with another version of it."""
    version = f"# transformers {transformers.__version__}"
    if TRANSFORMERS.exists() and TRANSFORMERS.read_text(encoding="utf-8").startswith(version):
        return
    names = sorted(backbone.name for backbone in plugins.backbones("transformers/*"))
    with replacing(TRANSFORMERS) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        file.write(f"{version}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "parameters", "macs"))
        writer.writerows((name.partition("/")[2], *count(name)) for name in names)


def _moment(key: Key) -> tuple[bool, int, Key]:
    return any(part in key[0] for part in LARGE), key[1] * key[2], key


if __name__ == "__main__":
    main()
