"""Pictures that look like something: each seed another one, which keeps its looks when edited."""

import os
import time
from pathlib import Path

import numpy as np
from PIL import Image


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Large and small patches of colour, as a photo has them, and some grain."""
    random = np.random.default_rng(seed)
    whole = random.integers(-4, 5, (size[1], size[0], 3))
    for rows, columns, contrast in ((6, 8, 120), (24, 32, 80)):
        patches = random.integers(0, contrast, (rows, columns, 3)).astype(np.uint8)
        whole += np.asarray(Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray((whole + 10).clip(0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def make_scenes(root: Path, per_class: int, first_seed: int = 0) -> Path:
    """`root/CLASS/N.png` for two classes."""
    for label, name in enumerate(("ants", "bees")):
        for n in range(per_class):
            save(scene(first_seed + 1000 * label + n), root / name / f"{n}.png")
    return root


#: Findings about the size of a dataset, which those of most tests are too small for.
SIZES = {"few-images", "few-val-images", "few-test-images"}


def findings_of(report) -> list:
    """The findings but those about the number of images."""
    return [finding for finding in report.findings if finding.kind not in SIZES]


def make_split_scenes(root: Path) -> Path:
    """Train and val with 4 and 2 pictures of each of two classes, nothing wrong with them."""
    make_scenes(root / "train", 4)
    make_scenes(root / "val", 2, first_seed=500)
    return root


def settle(root: Path) -> None:
    """Make all files below as old as most files are."""
    for file in root.rglob("*"):
        if file.is_file():
            os.utime(file, (time.time() - 3600, time.time() - 3600))


def garble(file: Path) -> None:
    """Make a file unreadable without changing its size or the time of its change."""
    stat = file.stat()
    file.write_bytes(b"\0" * stat.st_size)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
