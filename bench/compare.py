"""zoo beside what people use: seconds to an accuracy, speed, memory; the same photos and weights.

python bench/compare.py --search --data photos          choose learning rates for all, once
python bench/compare.py --data photos                   measure; prints tables, writes results.json
python bench/compare.py --data photos --allocator --out allocator.json
python bench/compare.py --render results.json allocator.json       rewrite docs/performance.md

Without --data: some of scikit-learn's digits. docs/performance.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w
from page import render, tables
from photos import Photos, prepare_photos, write_weights
from runs import (
    Row,
    Run,
    RunFailed,
    best_accuracy,
    measure,
    read_results,
    write_results,
)
from tools import CHOSEN, Tool, all_tools, arguments, chosen, described

from zoo.hookspecs import DISTRIBUTION


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="CLASS/IMAGE, or that below train/ and val/")
    parser.add_argument("--only", action="append", default=[], help="rows whose name holds this")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each  [default: 3]")
    parser.add_argument("--threads", type=int, default=_cores(), help="default: all cores")
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    parser.add_argument(
        "--allocator", action="store_true", help="give the others zoo's allocator setting"
    )
    parser.add_argument("--search", action="store_true", help="choose settings: bench/peers.toml")
    parser.add_argument("--render", type=Path, nargs="+", metavar="RESULTS.JSON")
    args = parser.parse_args()
    if args.render:
        render([read_results(file) for file in args.render])
        return
    tools = _selected(args.only)
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        work = Path(folder)
        photos = prepare_photos(args.data, work)
        train, val, learn, pick = photos.counts
        _say(f"{photos.name}: {train} train, {val} val; to choose settings: {learn} and {pick}")
        write_weights(work / "weights")
        setup = Setup(work=work, photos=photos, threads=args.threads, allocator=args.allocator)
        if args.search:
            search(setup, tools)
        else:
            compare(setup, tools, args.rounds, args.out)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all runs have in common; the weights lie in work/weights."""

    work: Path
    photos: Photos
    threads: int
    allocator: bool


def compare(setup: Setup, tools: Sequence[Tool], rounds: int, out: Path) -> None:
    """Run each tool once a round, in turn, and write the results after each round."""
    settings = chosen()
    about = _about(setup)
    rows = [
        Row(
            name=tool.name,
            settings=described(tool, settings),
            learns=tool.learns,
            problem=tool.missing(),
        )
        for tool in tools
    ]
    for number in range(rounds):
        homes: dict[str, Path] = {}
        for position, (tool, row) in enumerate(zip(tools, rows, strict=True)):
            label = f"round {number + 1} of {rounds}, {tool.name}"
            if row.problem is not None:
                _say(f"{label}: {row.problem}")
                continue
            if tool.again and tool.again not in homes:
                rows[position] = replace(row, runs=[], problem=f"{tool.again} left no caches")
                continue
            home = homes[tool.again] if tool.again else _fresh(setup)
            own = settings.get(tool.name, {})
            lr = None if tool.is_zoo else own.get("lr")
            try:
                run = _run(
                    setup,
                    tool,
                    setup.photos.report,
                    seed=number,
                    lr=lr,
                    workers=own.get("workers"),
                    home=home,
                )
            except RunFailed as error:
                rows[position] = replace(row, runs=[], problem=f"failed: {_last_line(error)}")
                _say(f"{label}: failed\n{error}")
                continue
            row.runs.append(run)
            homes[tool.name] = home
            _say(f"{label}: {_outcome(run)}")
        write_results(out, {**about, "rounds": number + 1}, rows)
    _say(f"\n{tables(*read_results(out))}\n\nwritten: {out}")


def search(setup: Setup, tools: Sequence[Tool]) -> None:
    """Choose each tool's learning rate and loader processes; write them to bench/peers.toml.

    The rate is the one of the best val accuracy on photos held out of train; of equals that of the
    better mean over the epochs, and then the tool's default. Then loader processes by the time.
    """
    settings = chosen()
    for tool in tools:
        if tool.missing() or (tool.is_zoo and not tool.rates):
            _say(f"{tool.name}: {tool.missing() or 'nothing to choose'}")
            continue
        found: dict[str, Any] = {}
        try:
            tried = {lr: _pick_run(setup, tool, lr, tool.workers) for lr in tool.rates or (None,)}
            best = max(tried, key=lambda lr: _success(tried[lr]))
            if best is not None:
                found |= {
                    "lr": best,
                    "val_accuracy": best_accuracy(tried[best]),
                    "tried": {f"{lr:g}": best_accuracy(run) for lr, run in tried.items()},
                }
            if not tool.is_zoo:
                other = 0 if tool.workers else setup.threads
                seconds = {
                    tool.workers: tried[best].seconds,
                    other: _pick_run(setup, tool, best, other).seconds,
                }
                found["workers"] = min(seconds, key=seconds.__getitem__)
                found["seconds"] = {f"{workers} workers": s for workers, s in seconds.items()}
        except RunFailed as error:
            _say(f"{tool.name}: failed\n{error}")
            continue
        settings[tool.name] = found
        _write_chosen(setup.photos, settings)
        _say(f"{tool.name}: chosen {found}")


def _success(run: Run) -> tuple[float, float]:
    """What learning rates are chosen by: the best val accuracy, then the mean over the epochs."""
    known = [p.val_accuracy for p in run.points if p.val_accuracy is not None]
    return (max(known), statistics.fmean(known)) if known else (0.0, 0.0)


def _pick_run(setup: Setup, tool: Tool, lr: float | None, workers: int | None) -> Run:
    run = _run(setup, tool, setup.photos.pick, seed=0, lr=lr, workers=workers, home=_fresh(setup))
    way = ", ".join(f"{k} {v:g}" for k, v in (("lr", lr), ("workers", workers)) if v is not None)
    _say(f"{tool.name}, {way}: {_outcome(run)}")
    return run


def _run(
    setup: Setup,
    tool: Tool,
    data: Path,
    *,
    seed: int,
    lr: float | None,
    workers: int | None,
    home: Path,
) -> Run:
    environment = {
        "OMP_NUM_THREADS": str(setup.threads),
        "MKL_NUM_THREADS": str(setup.threads),
        "HF_HUB_OFFLINE": "1",
        "YOLO_OFFLINE": "1",
        "YOLO_CONFIG_DIR": str(setup.work / "ultralytics"),
        "ZOO_HOME": str(home),
    }
    if setup.allocator and not tool.is_zoo:
        environment["BENCH_ALLOCATOR"] = "1"
    weights = setup.work / "weights"
    return measure(
        arguments(tool, data=data, weights=weights, seed=seed, lr=lr, workers=workers), environment
    )


def _fresh(setup: Setup) -> Path:
    return Path(tempfile.mkdtemp(dir=setup.work, prefix="zoo-home-"))


def _selected(only: Sequence[str]) -> list[Tool]:
    """The tools of those names, and the rows whose caches they need."""
    tools = all_tools()
    names = {t.name for t in tools if not only or any(text in t.name for text in only)}
    names |= {t.again for t in tools if t.name in names and t.again}
    return [t for t in tools if t.name in names]


def _write_chosen(photos: Photos, settings: dict[str, dict[str, Any]]) -> None:
    train, _, learn, pick = photos.counts
    heading = (
        f"# Written by `python bench/compare.py --search`. Chosen by val accuracy on {pick} of\n"
        f"# the {train} train images of {photos.name}, trained on the other {learn}, seed 0.\n\n"
    )
    CHOSEN.write_text(heading + tomli_w.dumps(settings), encoding="utf-8")


def _about(setup: Setup) -> dict[str, Any]:
    train, val, _, _ = setup.photos.counts
    return {
        "data": {
            "name": setup.photos.name,
            "classes": setup.photos.classes,
            "train": train,
            "val": val,
        },
        "processor": _processor(),
        "cores": _cores(),
        "threads": setup.threads,
        "allocator": setup.allocator,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("zoo", "torch", "torchvision", "timm", "fastai", "transformers", "ultralytics"):
        try:
            found[name] = metadata.version(DISTRIBUTION if name == "zoo" else name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _outcome(run: Run) -> str:
    best = best_accuracy(run)
    accuracy = "" if best is None else f", best val accuracy {best:.2%}"
    return f"{run.seconds:.1f} s{accuracy}"


def _last_line(error: RunFailed) -> str:
    return str(error).splitlines()[-1]


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
