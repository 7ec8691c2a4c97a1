"""How far probabilities, thresholds, prediction sets and `unfamiliar` hold on test images.

python bench/confidence.py measure --sets SETS --runs RUNS              a probe on each set
python bench/confidence.py measure --sets SETS --runs RUNS --fine-tune  a fine-tuned network on each
python bench/confidence.py measure --sets SETS --runs RUNS --few        on 5 images a class
python bench/confidence.py page                                         rewrite docs/confidence.md

SETS has sets as `bench/sets.py` makes them, SET/{train,val,test}/CLASS/FILE. Runs are kept in RUNS
and trained only once. Every run is a line of bench/confidence.jsonl; what is there already is not
measured again without --again. Thresholds and sets are computed by zoo's own functions, from what
the run folder has.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sets import SETS
from transfer import Record, add, read, run_command, say
from transfer_page import replace_between, table

import zoo
from zoo.errors import DataError
from zoo.events import ignore
from zoo.features.transfer import some_of_each
from zoo.runs.confidence import prediction_set
from zoo.runs.figures import figures
from zoo.runs.scores import read_columns
from zoo.runs.write import PREDICTIONS
from zoo.tasks import SINGLE_LABEL

HERE = Path(__file__).parent
RECORDS = HERE / "confidence.jsonl"
PAGE = HERE.parent / "docs" / "confidence.md"
MAX_ERRORS, COVERAGES = (0.05, 0.10), (0.90, 0.95)
#: A mistake with more than this probability is a confident one.
CONFIDENT = 0.99
#: Test images of each other set, and images of each kind of noise.
OTHERS, NOISE = 10, 20
#: Of noise and blanks, in pixels: the longest side of the sets' images.
SIDE = 256
BLANKS = ("black", "white", "grey", "red", "lime", "blue", "yellow", "skyblue")
#: Sets of the same photos: neither is unfamiliar to a run on the other.
SAME_PHOTOS = ({"few", "rooms"},)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A way to train: fields of a recipe, and train images of a class or None for all."""

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    images: int | None = None


PROBE = Kind(name="probe", fields={"train": "probe", "image_size": 224})
TUNED = Kind(name="fine-tuned", fields={"image_size": 128})
FEW = Kind(name="fine-tuned, 5 a class", fields={"image_size": 224}, images=5)
KINDS = (TUNED, FEW, PROBE)


# Measuring


def measure(args: argparse.Namespace) -> None:
    kind = TUNED if args.fine_tune else FEW if args.few else PROBE
    names = [one.name for one in SETS if (args.sets / one.name / "test").is_dir()]
    done = {(r["tool"], r["set"], r["seed"]) for r in read(args.records)}
    for name in args.set or names:
        for seed in args.seeds:
            if (kind.name, name, seed) in done and not args.again:
                continue
            run = trained(args.sets / name, args.runs, kind, seed)
            others = {n: some_test_images(args.sets / n) for n in unlike(name, names)}
            record = {
                "tool": kind.name,
                "set": name,
                "seed": seed,
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "versions": {n: run.info.versions[n] for n in ("zoo", "torch", "timm")},
                "epoch": run.info.epoch,
                **of_test(run),
                "unfamiliar": {**of_made_images(run), "others": of_others(run, others)},
            }
            add(args.records, record)
            say(f"{kind.name}, {name}, seed {seed}: {record['accuracy']:.1%}")


def trained(folder: Path, runs: Path, kind: Kind, seed: int) -> zoo.Run:
    """Train on a set, or load the run that is there."""
    out = runs / f"{folder.name} {kind.name} {seed}"
    if not out.exists():
        partial = out.with_name(f"{out.name}.partial")
        for path in (partial, data := out.with_name(f"{out.name}.data")):
            shutil.rmtree(path, ignore_errors=True)
        given: dict[str, Any] = {"data": folder}
        if kind.images is not None:
            copy_some(folder / "train", data, kind.images, seed)
            given = {"data": data, "test": folder / "test"}
        zoo.finetune(
            out=partial,
            seed=seed,
            device="cpu",
            listen=ignore,
            report=False,
            **given,
            **kind.fields,
        )
        partial.rename(out)
    return zoo.load(out, device="cpu")


def copy_some(train: Path, to: Path, images: int, seed: int) -> None:
    """Copy so many images of each class, drawn at random."""
    random = np.random.default_rng(seed)
    for folder in sorted(train.iterdir()):
        files = sorted(folder.iterdir())
        (to / folder.name).mkdir(parents=True)
        for n in random.choice(len(files), min(images, len(files)), replace=False):
            shutil.copy(files[n], to / folder.name)


def of_test(run: zoo.Run) -> Record:
    """What predictions.parquet has of the test images, against what the run promises."""
    columns = read_columns(run.path / PREDICTIONS)
    rows = [n for n, split in enumerate(columns["split"]) if split == "test"]
    names = list(run.class_names)
    probabilities = np.stack([np.asarray(columns[f"p_{name}"])[rows] for name in names], axis=1)
    truth = np.array([names.index(columns["label"][n]) for n in rows])
    distances = np.asarray(columns["distance"], dtype=float)[rows]
    return {
        "held_out": run.info.confidence.images,
        "test": len(rows),
        "accuracy": round(float((probabilities.argmax(axis=1) == truth).mean()), 6),
        "temperature": run.info.temperature,
        **calibration(probabilities, truth, run.info.temperature, names),
        "max_error": {str(most): answers(run, probabilities, truth, most) for most in MAX_ERRORS},
        "set_coverage": {str(p): sets_of(run, probabilities, truth, p) for p in COVERAGES},
        "false_alarms": round(float((distances > 1).mean()), 6),
    }


def calibration(
    probabilities: np.ndarray, truth: np.ndarray, temperature: float, names: Sequence[str]
) -> Record:
    """Log-loss, calibration error and confident mistakes, without and with the temperature."""
    calibrated = torch.from_numpy(probabilities).double().clamp_min(1e-38).log()
    found = {}
    for when, logits in (("without", calibrated * temperature), ("with", calibrated)):
        told = figures(logits.float(), torch.from_numpy(truth), names, SINGLE_LABEL).metrics
        best = logits.softmax(dim=1).max(dim=1)
        wrong = best.indices.numpy() != truth
        found[when] = {
            "log_loss": round(told["log_loss"].value, 6),
            "ece": round(told["ece"].value, 6),
            "mistakes": int(wrong.sum()),
            "confident": int((wrong & (best.values.numpy() > CONFIDENT)).sum()),
        }
    return found


def answers(
    run: zoo.Run, probabilities: np.ndarray, truth: np.ndarray, most: float
) -> Record | None:
    """Answers and wrong ones among the test images with `--max-error`; None if it is refused."""
    try:
        least = run.error_threshold(most).probability
    except DataError:
        return None
    sure = probabilities.max(axis=1) >= least
    wrong = probabilities.argmax(axis=1) != truth
    return {"answers": int(sure.sum()), "wrong": int((wrong & sure).sum())}


def sets_of(
    run: zoo.Run, probabilities: np.ndarray, truth: np.ndarray, coverage: float
) -> Record | None:
    """Coverage and mean size with `--set-coverage` on test images; None if it is refused."""
    try:
        least = run.asked(set_coverage=coverage).least_in_set
    except DataError:
        return None
    names, found = run.class_names, []
    for row in probabilities:
        ranked = [(names[n], float(row[n])) for n in np.argsort(-row, kind="stable")]
        found.append(prediction_set(ranked, least))
    covered = [names[right] in one for right, one in zip(truth, found, strict=True)]
    return {
        "coverage": round(statistics.fmean(covered), 6),
        "size": round(statistics.fmean(map(len, found)), 4),
    }


def of_made_images(run: zoo.Run) -> Record:
    """Share of noise and blanks that is flagged."""

    random = np.random.default_rng(0)
    shape = (SIDE, SIDE, 3)
    made: dict[str, list[Any]] = {
        "uniform noise": [random.integers(0, 256, shape, np.uint8) for _ in range(NOISE)],
        "normal noise": [
            np.clip(random.normal(128, 50, shape), 0, 255).astype(np.uint8) for _ in range(NOISE)
        ],
        "blanks": [Image.new("RGB", shape[:2], colour) for colour in BLANKS],
    }
    return {name: flagged(run, images) for name, images in made.items()}


def of_others(run: zoo.Run, others: Mapping[str, Sequence[Path]]) -> Record:
    return {name: flagged(run, files) for name, files in others.items()}


def flagged(run: zoo.Run, images: Iterable[Any]) -> float:
    return statistics.fmean(not each.familiar for each in run.predict(images))


def unlike(name: str, names: Sequence[str]) -> Iterator[str]:
    """The sets that show other images."""
    for other in names:
        if other != name and not any({name, other} <= same for same in SAME_PHOTOS):
            yield other


def some_test_images(folder: Path) -> list[Path]:
    files = sorted((folder / "test").glob("*/*"))
    classes = sorted({file.parent.name for file in files})
    return [
        files[n] for n in some_of_each([classes.index(f.parent.name) for f in files], OTHERS, 0)
    ]


# The page


def write(records: Sequence[Record], page: Path = PAGE) -> None:
    """Rewrite the three tables of the page."""
    order = {one.name: n for n, one in enumerate(SETS)}
    kinds = [kind.name for kind in KINDS]
    found = sorted(records, key=lambda r: (kinds.index(r["tool"]), order[r["set"]], r["seed"]))
    whole = [record for record in found if record["tool"] != FEW.name]
    replace_between(page, _marker("calibration"), calibration_table(found))
    replace_between(page, _marker("thresholds"), thresholds_table(whole))
    replace_between(page, _marker("unfamiliar"), unfamiliar_table(whole))


def _marker(what: str) -> str:
    return f"<!-- confidence.py writes {what} from here -->"


def calibration_table(records: Sequence[Record]) -> str:
    rows = [
        [
            _name(r),
            str(r["held_out"]),
            f"{r['accuracy']:.1%}",
            f"{r['temperature']:.2f}",
            *(f"{r[when]['log_loss']:.3f}" for when in ("without", "with")),
            *(f"{100 * r[when]['ece']:.1f}" for when in ("without", "with")),
            f"{r['without']['confident']} / {r['with']['confident']} of {r['with']['mistakes']}",
        ]
        for r in records
    ]
    heading = ["run", "held-out images", "accuracy", "temperature", "log-loss without", "with"]
    heading += ["ECE without", "with", "confident mistakes without / with"]
    return f"{table(heading, rows)}\n{_by_kind(records, _calibration_in_all)}"


def _calibration_in_all(records: Sequence[Record]) -> str:
    def mean(when: str, what: str) -> float:
        return statistics.fmean(r[when][what] for r in records)

    better = {
        what: sum(r["with"][what] < r["without"][what] for r in records)
        for what in ("log_loss", "ece")
    }
    confident = [sum(r[when]["confident"] for r in records) for when in ("without", "with")]
    return (
        f"mean log-loss {mean('without', 'log_loss'):.3f} without the temperature, "
        f"{mean('with', 'log_loss'):.3f} with it (lower on {better['log_loss']}); "
        f"mean ECE {100 * mean('without', 'ece'):.1f} and {100 * mean('with', 'ece'):.1f} "
        f"(lower on {better['ece']}); "
        f"confident mistakes {confident[0]} and {confident[1]} of "
        f"{sum(r['with']['mistakes'] for r in records)}"
    )


def thresholds_table(records: Sequence[Record]) -> str:
    def answered(record: Record, most: float) -> str:
        found = record["max_error"][str(most)]
        if found is None:
            return "refused"
        return f"{found['answers'] / record['test']:.0%} / {_error(found):.1%}"

    def covered(record: Record, coverage: float) -> str:
        found = record["set_coverage"][str(coverage)]
        return "refused" if found is None else f"{found['coverage']:.1%} / {found['size']:.2f}"

    rows = [
        [
            _name(r),
            str(r["held_out"]),
            f"{r['accuracy']:.1%}",
            *(answered(r, most) for most in MAX_ERRORS),
            *(covered(r, coverage) for coverage in COVERAGES),
        ]
        for r in records
    ]
    heading = ["run", "held-out images", "accuracy", "max error 5 %: coverage / error"]
    heading += ["max error 10 %", "sets 90 %: coverage / mean size", "sets 95 %"]
    return f"{table(heading, rows)}\n{_by_kind(records, _thresholds_in_all)}"


def _thresholds_in_all(records: Sequence[Record]) -> str:
    parts = []
    for most in MAX_ERRORS:
        found = [(r, r["max_error"][str(most)]) for r in records if r["max_error"][str(most)]]
        above = [
            f"{r['set']} ({_error(one):.1%}: {one['wrong']} of {one['answers']})"
            for r, one in found
            if _error(one) > most
        ]
        parts.append(
            f"max error {most:.0%}: a threshold on {len(found)}, of which {len(above)} exceed it "
            f"on test{': ' * bool(above)}{', '.join(above)}"
        )
    for coverage in COVERAGES:
        sets = [(r, r["set_coverage"][str(coverage)]) for r in records]
        told = [(r["set"], one["coverage"]) for r, one in sets if one]
        worst = min(told, key=lambda one: one[1])
        parts.append(
            f"sets of {coverage:.0%}: {statistics.fmean(c for _, c in told):.1%} on average, "
            f"less than asked on {sum(c < coverage for _, c in told)}, least {worst[1]:.1%} "
            f"({worst[0]})"
        )
    return "; ".join(parts)


def unfamiliar_table(records: Sequence[Record]) -> str:
    made = ("uniform noise", "normal noise", "blanks")
    rows = []
    for r in records:
        others = r["unfamiliar"]["others"]
        low = sorted((share, name) for name, share in others.items())[:2]
        least = ", ".join(f"{name} {share:.0%}" for share, name in low if share < 0.95)
        rows.append(
            [
                _name(r),
                str(r["held_out"]),
                f"{r['false_alarms']:.1%}",
                *(f"{r['unfamiliar'][name]:.0%}" for name in made),
                f"{statistics.fmean(others.values()):.1%} ({len(others)} sets)",
                least or "-",
            ]
        )
    heading = ["run", "held-out images", "false alarms", *made, "other sets"]
    heading += ["least found of these"]
    return f"{table(heading, rows)}\n{_by_kind(records, _unfamiliar_in_all)}"


def _unfamiliar_in_all(records: Sequence[Record]) -> str:
    others = [statistics.fmean(r["unfamiliar"]["others"].values()) for r in records]
    alarms = [r["false_alarms"] for r in records]
    noise = [
        statistics.fmean(r["unfamiliar"][name] for r in records)
        for name in ("uniform noise", "normal noise", "blanks")
    ]
    return (
        f"{statistics.fmean(alarms):.1%} false alarms on average (above 5 % on "
        f"{sum(alarm > 0.05 for alarm in alarms)}, at most {max(alarms):.1%}); found of uniform "
        f"noise {noise[0]:.0%}, normal noise {noise[1]:.0%}, blanks {noise[2]:.0%}, other sets "
        f"{statistics.fmean(others):.1%} (at least 95 % on {sum(o >= 0.95 for o in others)})"
    )


def _by_kind(records: Sequence[Record], told: Callable[[Sequence[Record]], str]) -> str:
    """A list item for each kind of run, with when it was measured."""
    lines = []
    for kind in KINDS:
        some = [record for record in records if record["tool"] == kind.name]
        if some:
            dates = sorted({record["date"] for record in some})
            lines.append(f"- {len(some)} runs, {kind.name} ({' to '.join(dates)}): {told(some)}.\n")
    return "".join(lines)


def _name(record: Record) -> str:
    seed = f", seed {record['seed']}" if record["tool"] == FEW.name else ""
    return f"{record['tool']}, {record['set']}{seed}"


def _error(found: Record) -> float:
    return float(found["wrong"] / found["answers"]) if found["answers"] else 0.0


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is trained."""
    parser.add_argument("--fine-tune", action="store_true", help="the default, at 128 pixels")
    parser.add_argument("--few", action="store_true", help="fine-tune on 5 images a class")


if __name__ == "__main__":
    run_command(__doc__, RECORDS, measure, write, options)
