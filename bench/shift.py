"""How many shifted test sets a run warns of, and how many that are not shifted.

    python bench/shift.py SETS [--images 80] [--splits 20] [--only NAME...]

SETS has sets as `bench/sets.py` makes them, NAME/{train,val,test}/CLASS/FILE. Val images of a set
are compared with its test images, as they are and edited in several ways (brightness, blur, JPEG
quality, resolution, colour). For false alarms, val and test images are pooled and split at random.
Prints a line of JSON for each set, and a table of all.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

from zoo import plugins
from zoo.data.sample import Sample
from zoo.data.sources import open_source
from zoo.features.pretrained import Pretrained, features_of, load_pretrained
from zoo.features.shift import measure_shift
from zoo.features.transfer import some_of_each
from zoo.recipe import make_recipe
from zoo.runs.scores import Scores
from zoo.runs.shift import SHIFTED
from zoo.tasks import SINGLE_LABEL


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "jpeg", quality=quality)
    return Image.open(content).convert("RGB")


def coarse(image: Image.Image) -> Image.Image:
    half = tuple(max(8, side // 2) for side in image.size)
    return image.resize(half, Image.Resampling.BILINEAR).resize(image.size)


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "brightness x 1.5": lambda image: ImageEnhance.Brightness(image).enhance(1.5),
    "brightness x 0.6": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "blur, radius 1.5": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
    "JPEG of quality 20": lambda image: jpeg(image, 20),
    "half the resolution": coarse,
    "colour x 0.3": lambda image: ImageEnhance.Color(image).enhance(0.3),
}


def edited(sample: Sample, edit: Callable[[Image.Image], Image.Image]) -> Sample:
    content = io.BytesIO()
    edit(Image.open(io.BytesIO(sample.read())).convert("RGB")).save(content, "png")
    data = content.getvalue()
    return Sample(name=sample.name, labels=sample.labels, load=lambda: data)


def scores(pretrained: Pretrained, split: str, samples: list[Sample], names: list[str]) -> Scores:
    (found,) = features_of(pretrained, samples)
    return Scores(
        split=split,
        samples=samples,
        targets=torch.tensor([names.index(sample.label) for sample in samples]),
        logits=torch.zeros(len(samples), len(names)),
        features=found.features,
    )


def part(scores: Scores, split: str, rows: np.ndarray) -> Scores:
    return Scores(
        split=split,
        samples=[scores.samples[n] for n in rows],
        targets=scores.targets[rows],
        logits=scores.logits[rows],
        features=scores.features[rows],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sets", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--images", type=int, default=80, help="at most, of val and of test")
    parser.add_argument("--splits", type=int, default=20, help="random splits of each set")
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    pretrained = load_pretrained(plugins.get(args.backbone), make_recipe(None))
    alarms: dict[str, list[bool]] = {}
    for folder in sorted(path for path in args.sets.iterdir() if (path / "test").is_dir()):
        if args.only and folder.name not in args.only:
            continue
        source = open_source(str(folder))
        by_split = {split: list(source.read(split).samples) for split in ("val", "test")}
        names = sorted({s.label for samples in by_split.values() for s in samples})
        for split, samples in by_split.items():
            strata = [names.index(sample.label) for sample in samples]
            by_split[split] = [samples[n] for n in some_of_each(strata, args.images, 0)]
        val = scores(pretrained, "val", by_split["val"], names)
        test = scores(pretrained, "test", by_split["test"], names)
        started = time.perf_counter()
        line = {"as it is": measure_shift(val, test, SINGLE_LABEL, seed=0)}
        seconds = time.perf_counter() - started
        for kind, edit in EDITS.items():
            shifted = [edited(sample, edit) for sample in by_split["test"]]
            other = scores(pretrained, "test", shifted, names)
            line[kind] = measure_shift(val, other, SINGLE_LABEL, seed=0)
        pool = scores(pretrained, "val", by_split["val"] + by_split["test"], names)
        random = np.random.default_rng(0)
        clean = []
        for seed in range(args.splits):
            order = random.permutation(len(pool.samples))
            one, other = np.split(order, [len(val.samples)])
            found = measure_shift(
                part(pool, "val", one), part(pool, "test", other), SINGLE_LABEL, seed=seed
            )
            if found is not None:
                clean.append(found.p)
        for kind, found in line.items():
            if found is not None:
                alarms.setdefault(kind, []).append(found.found)
        alarms.setdefault("random splits", []).extend(p < SHIFTED for p in clean)
        about = {k: None if f is None else (f.separation, f.p) for k, f in line.items()}
        print(
            json.dumps(
                {
                    "set": folder.name,
                    "val": len(val.samples),
                    "test": len(test.samples),
                    "seconds": round(seconds, 2),
                    **about,
                    "clean": sorted(clean)[:3],
                }
            ),
            flush=True,
        )
    for kind, found in alarms.items():
        print(f"| {kind} | {sum(found)} of {len(found)} |")


if __name__ == "__main__":
    main()
