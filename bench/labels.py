"""How many swapped labels and edited copies `zoo data check --labels` finds, and false alarms.

    python bench/labels.py FOLDER... [--seeds 3] [--noise 0.05] [--images 700] [--copies 40]

For each folder, prints one line of JSON: with the labels as they are, the number of suspects; with
a share of labels swapped, the share of swaps that is found among as many images of the lowest
score (precision and recall at k), and precision and recall of the suspects; and the share of
edited copies that is found, by kind, and the number of pairs that are found without any.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from zoo import plugins
from zoo.data.check.alignment import small_images
from zoo.data.check.compare import components
from zoo.data.sample import Sample
from zoo.data.sources import open_source
from zoo.data.transforms import eval_transform, mirrored_transform
from zoo.features.copies import find_copies
from zoo.features.pretrained import features_of, load_pretrained
from zoo.features.suspects import find_suspects
from zoo.recipe import make_recipe
from zoo.tasks import SINGLE_LABEL


def cropped(image: Image.Image, area: float, rng: random.Random) -> Image.Image:
    width, height = (round(side * area**0.5) for side in image.size)
    left, top = (rng.randint(0, a - b) for a, b in zip(image.size, (width, height), strict=True))
    return image.crop((left, top, left + width, top + height))


def edits(image: Image.Image, rng: random.Random) -> Iterator[tuple[str, Image.Image, str]]:
    """Yield the name, the image and the format of each edited copy."""
    half = tuple(max(8, side // 2) for side in image.size)
    yield "half size", image.resize(half, Image.Resampling.BICUBIC), "png"
    yield "JPEG of quality 30", image, "jpeg"
    for area in (0.9, 0.8, 0.7):
        yield f"crop of {area:.0%}", cropped(image, area, rng), "png"
    yield "mirrored", ImageOps.mirror(image), "png"
    yield "mirrored crop of 80%", ImageOps.mirror(cropped(image, 0.8, rng)), "png"


def copies_of(samples: list[Sample], rng: random.Random) -> list[tuple[str, int, Sample]]:
    """Return kind, position of the original and sample of each edited copy."""
    found = []
    for n, sample in enumerate(samples):
        image = Image.open(io.BytesIO(sample.read())).convert("RGB")
        for kind, edited, form in edits(image, rng):
            content = io.BytesIO()
            edited.save(content, form, **({"quality": 30} if form == "jpeg" else {}))
            data = content.getvalue()
            edited_sample = Sample(
                name=f"{kind}-{n}", labels=sample.labels, load=lambda data=data: data
            )
            found.append((kind, n, edited_sample))
    return found


def measure_labels(features: torch.Tensor, labels: torch.Tensor, noise: float, seeds: int) -> dict:
    """Swap labels at random, and count which are found."""
    count, classes = len(labels), int(labels.max()) + 1
    started = time.perf_counter()
    clean = find_suspects(features, labels, classes, task=SINGLE_LABEL)
    seconds = time.perf_counter() - started
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        swapped = rng.choice(count, round(noise * count), replace=False)
        given = labels.clone()
        given[swapped] = (
            labels[swapped] + torch.from_numpy(rng.integers(1, classes, len(swapped)))
        ) % classes
        found = find_suspects(features, given, classes, task=SINGLE_LABEL, seed=seed)
        own = found.probabilities[torch.arange(count), given]
        first = set(own.argsort()[: len(swapped)].tolist())
        suspects = {each.position for each in found.ranked}
        right = suspects & set(swapped.tolist())
        rows.append(
            (
                len(first & set(swapped.tolist())) / len(swapped),
                len(right) / len(swapped),
                len(right) / max(1, len(suspects)),
                len(suspects),
            )
        )
    mean = np.mean(rows, axis=0)
    probe = clean.probabilities.argmax(dim=1) == labels
    return {
        "images": count,
        "classes": classes,
        "probe_accuracy": round(float(probe.double().mean()), 3),
        "clean_suspects": len(clean.ranked),
        "swapped": round(noise * count),
        "found_at_k": round(float(mean[0]), 3),
        "recall": round(float(mean[1]), 3),
        "precision": round(float(mean[2]), 3),
        "suspects": round(float(mean[3]), 1),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--images", type=int, default=700, help="at most, for the labels")
    parser.add_argument("--pairs", type=int, default=300, help="images compared pairwise")
    parser.add_argument("--copies", type=int, default=40, help="images that are edited")
    args = parser.parse_args()
    recipe = make_recipe(None)
    pretrained = load_pretrained(plugins.get(args.backbone), recipe)
    plain, mirrored = (
        eval_transform(pretrained.preprocess),
        mirrored_transform(pretrained.preprocess),
    )
    for folder in args.folders:
        source = open_source(str(folder))
        samples = [sample for split in source.splits for sample in source.read(split).samples]
        random.Random(0).shuffle(samples)
        samples = samples[: args.images]
        names = sorted({sample.label for sample in samples})
        labels = torch.tensor([names.index(sample.label) for sample in samples])
        (found,) = features_of(pretrained, samples)
        line = {
            "set": folder.name,
            **measure_labels(found.features, labels, args.noise, args.seeds),
        }
        compared = samples[: args.pairs]
        rows = features_of(pretrained, compared, [plain, mirrored])
        started = time.perf_counter()
        pairs = find_copies(
            rows[0].features,
            rows[1].features,
            lambda chosen, compared=compared: small_images([compared[n] for n in chosen]),
        )
        line |= {
            "compared": len(compared),
            "false_pairs": len(pairs),
            "compare_seconds": round(time.perf_counter() - started, 2),
            "pairs": [
                (
                    compared[p.one].name,
                    compared[p.other].name,
                    p.mirrored,
                    round(p.similarity, 3),
                    round(p.correlation, 3),
                )
                for p in pairs[:6]
            ],
        }
        edited = copies_of(compared[: args.copies], random.Random(0))
        copied = [sample for _, _, sample in edited]
        extra = features_of(pretrained, copied, [plain, mirrored])
        everything = [*compared, *copied]
        hits: dict[str, list[bool]] = {}
        pairs = find_copies(
            torch.cat([rows[0].features, extra[0].features]),
            torch.cat([rows[1].features, extra[1].features]),
            lambda chosen, everything=everything: small_images([everything[n] for n in chosen]),
        )
        # An image has several copies here, of which only some are among its nearest neighbours.
        linked = components(len(everything), [(p.one, p.other) for p in pairs])
        for n, (kind, original, _) in enumerate(edited):
            hits.setdefault(kind, []).append(linked[original] == linked[len(compared) + n])
        line["found"] = {kind: round(sum(each) / len(each), 3) for kind, each in hits.items()}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
