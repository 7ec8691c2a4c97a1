"""How many shifted test sets a run warns of, and how many that are not shifted.

    python bench/shift.py measure --sets SETS [--set NAME] [--images 80] [--splits 20]
    python bench/shift.py page

SETS has sets as `bench/sets.py` makes them, NAME/{train,val,test}/CLASS/FILE. Val images of a set
are compared with its test images, as they are and edited in several ways (brightness, blur, JPEG
quality, resolution, colour). For false alarms, val and test images are pooled and split at random.
Every set is a line of bench/shift.jsonl; what is there already is not measured again. `page`
rewrites the table of docs/splits.md.
"""

from __future__ import annotations

import argparse
import datetime
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from sets import SETS
from transfer import Record, add, read, say
from transfer_page import replace_between, table

from zoo import plugins
from zoo.data.sample import Sample
from zoo.data.sources import open_source
from zoo.features.pretrained import Pretrained, features_of, load_pretrained
from zoo.features.shift import measure_shift
from zoo.features.transfer import some_of_each
from zoo.recipe import make_recipe
from zoo.runs.scores import Scores
from zoo.runs.shift import SHIFTED, Shift
from zoo.tasks import SINGLE_LABEL

HERE = Path(__file__).parent
RECORDS = HERE / "shift.jsonl"
PAGE = HERE.parent / "docs" / "splits.md"
START = "<!-- shift.py writes from here -->"
AS_IT_IS = "as it is"


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


def measure(args: argparse.Namespace) -> None:
    pretrained = load_pretrained(plugins.get(args.backbone), make_recipe(None))
    done = {record["set"] for record in read(args.records)}
    for name in [one.name for one in SETS if (args.sets / one.name / "test").is_dir()]:
        if name in done or (args.set and name not in args.set):
            continue
        record = of_set(pretrained, args.sets / name, args.images, args.splits)
        record |= {"tool": "shift", "backbone": args.backbone}
        record["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        add(args.records, record)
        say(f"{name}: {record['shifts']}, {record['random']}")


def of_set(pretrained: Pretrained, folder: Path, images: int, splits: int) -> Record:
    """Compare val and test images as they are, edited, and split at random.

    Args:
        pretrained: Computes the features.
        folder: The set.
        images: Of val and of test, at most.
        splits: Random splits.
    """
    source = open_source(str(folder))
    by_split = {split: list(source.read(split).samples) for split in ("val", "test")}
    names = sorted({s.label for samples in by_split.values() for s in samples})
    for split, samples in by_split.items():
        strata = [names.index(sample.label) for sample in samples]
        by_split[split] = [samples[n] for n in some_of_each(strata, images, 0)]
    val = scores(pretrained, "val", by_split["val"], names)
    test = scores(pretrained, "test", by_split["test"], names)
    started = time.perf_counter()
    found = {AS_IT_IS: measure_shift(val, test, SINGLE_LABEL, seed=0)}
    seconds = time.perf_counter() - started
    for kind, edit in EDITS.items():
        shifted = [edited(sample, edit) for sample in by_split["test"]]
        other = scores(pretrained, "test", shifted, names)
        found[kind] = measure_shift(val, other, SINGLE_LABEL, seed=0)
    pool = joined(val, test)
    random = np.random.default_rng(0)
    clean: list[Shift | None] = []
    for seed in range(splits):
        one, rest = np.split(random.permutation(len(pool.samples)), [len(val.samples)])
        parts = part(pool, "val", one), part(pool, "test", rest)
        clean.append(measure_shift(*parts, SINGLE_LABEL, seed=seed))
    return {
        "set": folder.name,
        "val": len(val.samples),
        "test": len(test.samples),
        "seconds": round(seconds, 2),
        "shifts": {k: f and {"separation": f.separation, "p": f.p} for k, f in found.items()},
        "random": [one.p for one in clean if one is not None],
    }


def joined(one: Scores, other: Scores) -> Scores:
    return Scores(
        split=one.split,
        samples=[*one.samples, *other.samples],
        targets=torch.cat([one.targets, other.targets]),
        logits=torch.cat([one.logits, other.logits]),
        features=torch.cat([one.features, other.features]),
    )


def write(records: Sequence[Record], page: Path = PAGE) -> None:
    """Rewrite the table of the page: a row a set, the share of pairs that are told apart."""
    order = {one.name: n for n, one in enumerate(SETS)}
    records = sorted(records, key=lambda record: order[record["set"]])
    kinds = (AS_IT_IS, *EDITS)

    def count(ps: Sequence[float]) -> str:
        return f"{sum(p < SHIFTED for p in ps)} of {len(ps)}" if ps else "-"

    def cell(found: Record | None) -> str:
        if found is None:
            return "-"
        share = f"{found['separation']:.0%}"
        return f"**{share}**" if found["p"] < SHIFTED else share

    rows = [
        [
            r["set"],
            f"{r['val']} / {r['test']}",
            *(cell(r["shifts"][kind]) for kind in kinds),
            count(r["random"]),
        ]
        for r in records
    ]
    totals = []
    for kind in kinds:
        told = [r["shifts"][kind] for r in records if r["shifts"][kind]]
        totals.append(count([one["p"] for one in told]))
    rows.append(["warned of", "", *totals, count([p for r in records for p in r["random"]])])
    replace_between(page, START, table(["set", "val / test", *kinds, "random splits"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["measure", "page"])
    parser.add_argument("--sets", type=Path, help="folder with SET/{train,val,test}/CLASS/IMAGE")
    parser.add_argument("--set", action="append", default=[], help="only this set")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--images", type=int, default=80, help="at most, of val and of test")
    parser.add_argument("--splits", type=int, default=20, help="random splits of each set")
    parser.add_argument("--records", type=Path, default=RECORDS)
    args = parser.parse_args()
    if args.do == "page":
        write(read(args.records))
    elif args.sets is None:
        parser.error("--sets is needed to measure")
    else:
        measure(args)


if __name__ == "__main__":
    main()
