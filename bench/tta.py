"""What test-time augmentation gains on test images, and whether val images say so.

python bench/tta.py measure --sets SETS --runs RUNS     every set; can be stopped
python bench/tta.py page                                rewrite the table of docs/predict.md

SETS has sets as `bench/sets.py` makes them, SET/{train,val,test}/CLASS/FILE, and RUNS fine-tuned
networks as `bench/confidence.py --fine-tune` trains them; one that is missing is trained. Every set
and augmentation is a line of bench/tta.jsonl; what is there already is not measured again without
--again.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from confidence import TUNED, trained
from sets import SETS
from transfer import Record, add, read, run_command, say
from transfer_page import bootstrap_interval, replace_between, table

import zoo
from zoo.runs.tta import Tta
from zoo.tasks.paired import SIGNIFICANT

HERE = Path(__file__).parent
RECORDS = HERE / "tta.jsonl"
PAGE = HERE.parent / "docs" / "predict.md"
MARKER = "<!-- tta.py writes from here -->"
KINDS: tuple[Tta, ...] = get_args(Tta)


def measure(args: argparse.Namespace) -> None:
    names = [one.name for one in SETS if (args.sets / one.name / "test").is_dir()]
    done = {(r["tool"], r["set"], r["seed"]) for r in read(args.records)}
    for name in args.set or names:
        for seed in args.seeds:
            missing = [kind for kind in KINDS if args.again or (kind, name, seed) not in done]
            if not missing:
                continue
            run = trained(args.sets / name, args.runs, TUNED, seed)
            for kind in missing:
                found = {s: gain(run, args.sets / name, s, kind) for s in ("val", "test")}
                about = {
                    "tool": kind,
                    "set": name,
                    "seed": seed,
                    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                    "versions": {n: run.info.versions[n] for n in ("zoo", "torch", "timm")},
                    "hflip": run.info.recipe.hflip,
                }
                add(args.records, {**about, **found})
                say(f"{kind}, {name}, seed {seed}: {points(found['test']):+.1f} points on test")


def gain(run: zoo.Run, folder: Path, split: str, kind: Tta) -> Record:
    """Correct predictions with an augmentation and without, of the images of a split."""
    found = run.evaluate(folder, split=split, tta=kind)
    told = found.tta
    if told is None:
        raise ValueError(f"{kind} was not measured")
    return {
        "images": found.images,
        "with": round(found.accuracy * found.images),
        "only_with": told.only_with,
        "only_without": told.only_without,
        "log_loss": [
            round(one["log_loss"].value, 6) for one in (told.without.metrics, found.figures.metrics)
        ],
        "p": round(told.p, 4),
    }


def points(found: Record) -> float:
    """Gain in accuracy, in points."""
    return float(100 * (found["only_with"] - found["only_without"]) / found["images"])


def write(records: Sequence[Record], page: Path = PAGE) -> None:
    """Rewrite the table of the page, and the sentences below it."""
    order = {one.name: n for n, one in enumerate(SETS)}
    found = sorted(records, key=lambda r: (order[r["set"]], r["seed"]))
    by_kind = {kind: {_of(r): r for r in found if r["tool"] == kind} for kind in KINDS}
    first, second = by_kind.values()
    runs = [run for run in first if run in second]
    if not runs:
        replace_between(page, MARKER, "Nothing has been measured yet.\n")
        return
    rows = []
    for run in runs:
        test = first[run]["test"]
        without = (test["with"] - test["only_with"] + test["only_without"]) / test["images"]
        several = len({seed for name, seed in runs if name == run[0]}) > 1
        rows.append(
            [
                f"{run[0]}, seed {run[1]}" if several else run[0],
                "yes" if first[run]["hflip"] else "no",
                str(test["images"]),
                f"{without:.1%}",
                *(_cell(by_kind[kind][run]["test"]) for kind in KINDS),
            ]
        )
    heading = ["set", "trained with mirrored images", "test images", "accuracy without"]
    heading += [f"{kind}: points (p)" for kind in KINDS]
    told = [f"- {kind}: {_in_all([by_kind[kind][run] for run in runs])}" for kind in KINDS]
    replace_between(page, MARKER, "\n".join([table(heading, rows), *told, ""]))


def _of(record: Record) -> tuple[str, int]:
    return record["set"], record["seed"]


def _cell(test: Record) -> str:
    p = f"{test['p']:.2f}" if test["p"] >= 0.01 else "< 0.01"
    text = f"{points(test):+.1f} ({p})"
    return f"**{text}**" if test["p"] < SIGNIFICANT else text


def _in_all(records: Sequence[Record]) -> str:
    """Mean gains with intervals: of all runs, of those trained with mirroring, chosen on val."""
    mirrored = [record for record in records if record["hflip"]]
    chosen = [record for record in records if points(record["val"]) > 0]
    better = sum(r["test"]["p"] < SIGNIFICANT and points(r["test"]) > 0 for r in records)
    worse = sum(r["test"]["p"] < SIGNIFICANT and points(r["test"]) < 0 for r in records)
    losses = [r["test"]["log_loss"] for r in records]
    used = [points(r["test"]) if r in chosen else 0.0 for r in records]
    return (
        f"{_mean([points(r['test']) for r in records])} on {len(records)} runs, significantly "
        f"better on {better} and worse on {worse} (p < {SIGNIFICANT}); "
        f"{_mean([points(r['test']) for r in mirrored])} on the {len(mirrored)} that were trained "
        f"with mirrored images. Log-loss is lower on {sum(b < a for a, b in losses)}, on average "
        f"{np.mean([a for a, _ in losses]):.3f} without and {np.mean([b for _, b in losses]):.3f} "
        f"with it. Used only where val accuracy is higher with it ({len(chosen)}): {_mean(used)}."
    )


def _mean(gains: Sequence[float]) -> str:
    if not gains:
        return "-"
    low, high = bootstrap_interval(gains)
    return f"{np.mean(gains):+.2f} points ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    run_command(__doc__, RECORDS, measure, write)
