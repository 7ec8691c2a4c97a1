"""What all tools of compare.py get: the same photos in the same split, the same weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.data.sources import open_source
from zoo.data.split import Sample, read_splits, stratified_split


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Two folders with train/CLASS/IMAGE and val/CLASS/IMAGE.

    Attributes:
        report: As given; its val is what figures are reported on, and nothing is chosen by it.
        pick: Made of report's train alone; its val is what settings are chosen by.
        name: Of the data, for people.
        classes: How many.
        counts: Images in report's train and val, and in pick's.
    """

    report: Path
    pick: Path
    name: str
    classes: int
    counts: tuple[int, int, int, int]


def prepare_photos(data: Path | None, work: Path) -> Photos:
    """The photos in the two splits; every image is read once, so all tools find them cached.

    Args:
        data: CLASS/IMAGE or train/CLASS/IMAGE and val/CLASS/IMAGE; None: scikit-learn's digits.
        work: A folder for them.

    Raises:
        zoo.DataError: No photos, or too few.
    """
    name = data.name if data else "scikit-learn's digits, 40 a class, at 96 pixels"
    splits = read_splits(open_source(data or _write_digits(work / "digits")), val_split=0.2, seed=0)
    learn, pick = stratified_split(splits.train, 0.3, seed=0)
    _place(work / "report" / "train", splits.train, splits.class_names)
    _place(work / "report" / "val", splits.val, splits.class_names)
    _place(work / "pick" / "train", learn, splits.class_names)
    _place(work / "pick" / "val", pick, splits.class_names)
    return Photos(
        report=work / "report",
        pick=work / "pick",
        name=name,
        classes=len(splits.class_names),
        counts=(len(splits.train), len(splits.val), len(learn), len(pick)),
    )


def write_weights(folder: Path) -> None:
    """The ImageNet weights of zoo's default backbone in the layout timm and transformers read."""
    from timm.models import save_for_hf

    from zoo_timm.packaged import zoo_backbones

    backbone = next(zoo_backbones())
    save_for_hf(backbone.build(None, True), folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    # transformers passes these on beside num_labels, which clashes.
    del config["model_args"]
    (folder / "config.json").write_text(json.dumps(config))


def _write_digits(folder: Path, per_class: int = 40) -> Path:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for index in np.flatnonzero(digits.target == label)[:per_class]:
            pixels = (digits.images[index] * (255 / 16)).round().astype(np.uint8)
            picture = Image.fromarray(pixels).resize((96, 96)).convert("RGB")
            picture.save(folder / str(label) / f"{index:04}.png")
    return folder


def _place(folder: Path, samples: Sequence[Sample], class_names: Sequence[str]) -> None:
    for name in class_names:
        (folder / name).mkdir(parents=True)
    for n, sample in enumerate(samples):
        assert sample.file is not None  # noqa: S101
        place = folder / sample.label / f"{n:06}{sample.file.suffix}"
        try:
            place.hardlink_to(sample.file.resolve())
        except OSError:  # another disk, or a file of somebody else
            shutil.copy(sample.file, place)
