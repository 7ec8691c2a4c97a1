"""zoo's accuracy beside what people use, on many small image sets, on test images.

python bench/transfer.py measure --sets DIR                 every tool on every set; can be stopped
python bench/transfer.py measure --sets DIR --only zoo --set trash --again
python bench/transfer.py page                               rewrite docs/transfer.md

DIR holds SET/{train,val,test}/CLASS/IMAGE for each set of bench/sets.py. Every run is a line of
bench/transfer.jsonl; what is there already is not measured again. docs/transfer.md says what is
measured and how.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from zoo.hookspecs import DISTRIBUTION

HERE = Path(__file__).parent
RECORDS = HERE / "transfer.jsonl"
SEEDS = (0, 1, 2)
EPOCHS = 6
BATCH_SIZE = 16
BINS = 15

Record = dict[str, Any]
State = Mapping[str, Any]
#: The probabilities (N, classes) of the test images, predicted by that state.
Predict = Callable[[State | None], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A row: its module below bench/peers, the rates it is searched among, fields of a recipe."""

    name: str
    module: str
    libraries: tuple[str, ...]
    rates: tuple[float, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    timed: bool = False

    @property
    def is_peer(self) -> bool:
        """Whether it is another tool than zoo."""
        return bool(self.rates)


def _zoo(name: str, *, timed: bool = False, **fields: Any) -> Tool:
    libraries = ("zoo", "torch", "timm")
    return Tool(name=name, module="transfer_zoo", libraries=libraries, fields=fields, timed=timed)


TOOLS = (
    Tool(
        name="Hugging Face Trainer",
        module="transfer_hf",
        libraries=("transformers", "accelerate", "torch", "torchvision", "timm"),
        rates=(2e-4, 8e-4, 2e-3, 5e-3, 1e-2),
    ),
    Tool(
        name="timm recipe",
        module="transfer_timm",
        libraries=("timm", "torch", "torchvision"),
        rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    ),
    Tool(
        name="fastai",
        module="transfer_fastai",
        libraries=("fastai", "torch", "torchvision", "timm"),
        rates=(5e-4, 2e-3, 8e-3, 2e-2),
    ),
    _zoo("zoo"),
    _zoo("zoo probe", train="probe"),
    _zoo("zoo best", recipe="best"),
    _zoo("zoo, a quarter of the time", timed=True),
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a tool's `train` is asked for."""

    data: Path
    weights: Path
    scratch: Path
    image_size: int
    classes: tuple[str, ...]
    lr: float | None
    seed: int
    epochs: int = EPOCHS
    batch_size: int = BATCH_SIZE

    @property
    def test_files(self) -> list[Path]:
        """In the order in which torchvision's ImageFolder has them."""
        return _files(self.data / "test", self.classes)[0]


class Watch:
    """Keeps the time, the val figures and the weights of each epoch; its own work is not timed."""

    def __init__(self) -> None:
        self.epochs: list[Record] = []
        self.states: list[State] = []
        self.restart()

    def restart(self) -> None:
        """Count from here."""
        self._started, self._cpu_started = time.perf_counter(), _cpu_time()
        self.seconds = self.cpu_seconds = 0.0

    def stop(self) -> None:
        """The run is done; without it, it is with its last epoch."""
        self.seconds = time.perf_counter() - self._started
        self.cpu_seconds = _cpu_time() - self._cpu_started

    def epoch(self, probabilities: np.ndarray, labels: np.ndarray, state: State) -> None:
        """An epoch and its validation are done."""
        self.epoch_of([(probabilities, state)], labels)

    def epoch_of(self, candidates: Sequence[tuple[np.ndarray, State]], labels: np.ndarray) -> None:
        """The same of several networks, of which the best on val counts."""
        self.stop()
        found = [(figures(probabilities, labels), state) for probabilities, state in candidates]
        best, state = max(found, key=lambda one: (one[0]["accuracy"], -one[0]["log_loss"]))
        self.states.append({name: tensor.detach().clone() for name, tensor in state.items()})
        self._keep(best["accuracy"], best["log_loss"])
        self._started += time.perf_counter() - self._started - self.seconds
        self._cpu_started += _cpu_time() - self._cpu_started - self.cpu_seconds

    def point(self, accuracy: float, log_loss: float) -> None:
        """Val figures that the tool computed itself, whose weights are not at hand."""
        self.stop()
        self._keep(accuracy, log_loss)

    def _keep(self, accuracy: float, log_loss: float) -> None:
        self.epochs.append(
            {
                "seconds": round(self.seconds, 3),
                "cpu_seconds": round(self.cpu_seconds, 3),
                "val_accuracy": round(float(accuracy), 6),
                "val_log_loss": round(float(log_loss), 6) if math.isfinite(log_loss) else None,
            }
        )


def _cpu_time() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def figures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, log-loss and expected calibration error.

    Args:
        probabilities: (N, classes). A row that is not finite counts as "all equally likely".
        labels: (N,), from 0.
    """
    probabilities = np.array(probabilities, dtype=float)
    labels = np.asarray(labels)
    count, classes = probabilities.shape
    probabilities[~np.isfinite(probabilities).all(axis=1)] = 1 / classes
    right = probabilities.argmax(axis=1) == labels
    of_truth = np.clip(probabilities[np.arange(count), labels], 1e-7, 1 - 1e-7)
    confidence = probabilities.max(axis=1)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = [abs(float((confidence - right)[bins == one].sum())) for one in range(BINS)]
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean([right[labels == c].mean() for c in set(labels)])),
        "log_loss": float(-np.log(of_truth).mean()),
        "ece": sum(gaps) / count,
    }


def best_epoch(epochs: Sequence[Record], within: float = math.inf) -> int:
    """The epoch of the best val accuracy, of equals the least log-loss; from 0.

    Args:
        epochs: As `Watch` keeps them.
        within: Only those known after so many seconds of CPU time; the first where there is none.
    """
    known = [n for n, epoch in enumerate(epochs) if epoch["cpu_seconds"] <= within] or [0]
    return max(known, key=lambda n: _success(epochs[n]))


def best_rate(records: Iterable[Record]) -> float:
    """The learning rate of the run that was best on val in its best epoch."""
    return max(records, key=lambda r: _success(r["epochs"][best_epoch(r["epochs"])]))["lr"]


def _success(epoch: Record) -> tuple[float, float]:
    loss = epoch["val_log_loss"]
    return epoch["val_accuracy"], -math.inf if loss is None else -loss


# Measuring


def measure(args: argparse.Namespace) -> None:
    """Run each tool on each set, a process for each such pair."""
    from photos import write_weights
    from sets import SETS

    with tempfile.TemporaryDirectory(prefix="transfer-") as folder:
        weights = Path(folder) / "weights"
        write_weights(weights)
        for image_set in SETS:
            if args.set and image_set.name not in args.set:
                continue
            for tool in TOOLS:
                if args.only and tool.name not in args.only:
                    continue
                if not args.again and _is_done(args, tool, image_set.name):
                    continue
                _one(args, tool, image_set.name, image_set.image_size, weights)


def _is_done(args: argparse.Namespace, tool: Tool, name: str) -> bool:
    row = args.name or tool.name
    mine = [r for r in read(args.records) if key(r)[:2] == (row, name) and not r.get("searched")]
    return {r["seed"] for r in mine} >= set(args.seeds)


def _one(args: argparse.Namespace, tool: Tool, name: str, size: int, weights: Path) -> None:
    command = [sys.executable, __file__, "one", "--sets", args.sets, "--records", args.records]
    command += ["--only", tool.name, "--set", name, "--size", str(size), "--weights", weights]
    command += ["--seeds", *map(str, args.seeds)]
    command += ["--threads", str(args.threads), *(["--again"] if args.again else [])]
    command += ["--name", args.name] if args.name else []
    threads = str(args.threads)
    environment = {
        "BENCH_ALLOCATOR": "1",
        "HF_HUB_OFFLINE": "1",
        "MKL_NUM_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(command, env={**os.environ, **environment}, check=False)
    if done.returncode:
        say(f"{name}, {tool.name}: failed")


def one(args: argparse.Namespace) -> None:
    """All runs of one tool on one set, in this process."""
    sys.path.insert(0, str(HERE / "peers"))
    importlib.import_module("common")  # sets the allocator, before torch
    (tool,) = (t for t in TOOLS if t.name in args.only)
    (name,) = args.set
    train = importlib.import_module(tool.module).train
    import torch

    torch.set_num_threads(args.threads)
    data = args.sets / name
    classes = tuple(sorted(p.name for p in (data / "train").iterdir()))
    labels = _files(data / "test", classes)[1]
    about = {
        "tool": args.name or tool.name,
        "set": name,
        "classes": len(classes),
        "images": {s: len(_files(data / s, classes)[0]) for s in ("train", "val", "test")},
        "image_size": args.size,
        "threads": args.threads,
        "versions": _versions(tool),
    }

    runs = {(r["seed"], r["lr"]): r for r in read(args.records) if key(r)[:2] == key(about)[:2]}
    if args.again:
        runs.clear()
    trained: dict[tuple[int, float | None], tuple[Watch, Predict]] = {}

    def run(seed: int, lr: float | None) -> Record:
        """Train unless it is recorded; the test images are not evaluated yet."""
        if (seed, lr) not in runs:
            with tempfile.TemporaryDirectory(prefix="transfer-run-") as scratch:
                job = Job(
                    data=data,
                    weights=args.weights,
                    scratch=Path(scratch),
                    image_size=args.size,
                    classes=classes,
                    lr=lr,
                    seed=seed,
                )
                watch = Watch()
                trained[seed, lr] = watch, train(job, watch, **_fields(tool, args.records, name))
            record = {**about, "seed": seed, "lr": lr, "searched": True, **_course(watch)}
            add(args.records, record)
            runs[seed, lr] = record
        return runs[seed, lr]

    def tested(seed: int, lr: float | None, **more: Any) -> None:
        """The same, with its test metrics recorded."""
        record = run(seed, lr)
        if "test" not in record:
            if (seed, lr) not in trained:  # interrupted in between
                del runs[seed, lr]
                record = run(seed, lr)
            test = _test(*trained.pop((seed, lr)), labels)
            add(args.records, {**record, "searched": False, **more, **test})
            say(
                f"{name}, {record['tool']}, seed {seed}, lr {lr}: "
                f"test {test['test']['accuracy']:.2%} in {record['seconds']:.1f} s, "
                f"{record['cpu_seconds']:.1f} s of CPU time"
            )

    if not tool.rates:
        for seed in args.seeds:
            tested(seed, None)
        return
    rate = search(tool.rates, lambda lr: run(SEEDS[0], lr))
    for seed in args.seeds:
        tested(seed, rate, rate_at_edge=rate in (tool.rates[0], tool.rates[-1]))


def search(rates: Sequence[float], run: Callable[[float], Record]) -> float:
    """The best rate by val: of the second, the third, and those beyond while they are better."""
    tried = [run(rates[1]), run(rates[2])]
    for rate in rates[:1] if best_rate(tried) == rates[1] else rates[3:]:
        tried.append(run(rate))
        if best_rate(tried) != rate:
            break
    return best_rate(tried)


def _fields(tool: Tool, records: Path, name: str) -> dict[str, Any]:
    """The settings of a tool besides the job."""
    if not tool.timed:
        return dict(tool.fields)
    if "time" not in importlib.import_module("zoo").Recipe.model_fields:
        sys.exit("this zoo has no --time")
    seconds = fastest_peer(read(records), name) / 4
    return {**tool.fields, "time": f"{max(1, round(seconds))}s"}


def _course(watch: Watch) -> Record:
    """How a run went."""
    return {
        "epochs": watch.epochs,
        "seconds": round(watch.seconds, 3),
        "cpu_seconds": round(watch.cpu_seconds, 3),
        "best_epoch": best_epoch(watch.epochs) + 1,
    }


def _test(watch: Watch, predict: Predict, labels: np.ndarray) -> Record:
    """The test metrics of a run, whose time is not counted."""
    if not watch.states:
        return {"test": _rounded(figures(predict(None), labels)), "quarter": None}
    best, early = best_epoch(watch.epochs), best_epoch(watch.epochs, watch.cpu_seconds / 4)
    test, quarter = (figures(predict(watch.states[n]), labels) for n in (best, early))
    return {"test": _rounded(test), "quarter": {"epoch": early + 1, **_rounded(quarter)}}


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _files(folder: Path, classes: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    files = [sorted((folder / name).iterdir()) for name in classes]
    labels = np.repeat(np.arange(len(classes)), [len(some) for some in files])
    return [file for some in files for file in some], labels


def _versions(tool: Tool) -> dict[str, str]:
    found = {
        name: metadata.version(DISTRIBUTION if name == "zoo" else name) for name in tool.libraries
    }
    if "zoo" in found:
        folder = Path(importlib.import_module("zoo").__file__ or "").parent
        commit = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
        found["zoo_commit"] = commit.stdout.strip()
    return found


# Records


def key(record: Record) -> tuple[Any, ...]:
    """Of two records with the same key the later one counts."""
    return record["tool"], record["set"], record.get("seed"), record.get("lr")


def read(path: Path) -> list[Record]:
    """All records of a file, none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(path: Path, record: Record) -> None:
    """Put a record into the file, in the place of one with its key; several processes may."""
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        lines = {key(old): line for line in file if (old := json.loads(line))}
        lines[key(record)] = json.dumps(record, allow_nan=False) + "\n"
        file.truncate(0)
        file.write("".join(lines.values()))


def fastest_peer(records: Iterable[Record], name: str) -> float:
    """Median CPU time of the peer that is fastest on that set."""
    seconds: dict[str, list[float]] = {}
    peers = {tool.name for tool in TOOLS if tool.is_peer}
    for record in records:
        if record["set"] == name and record["tool"] in peers and not record.get("searched"):
            seconds.setdefault(record["tool"], []).append(record["cpu_seconds"])
    if not seconds:
        sys.exit(f"no peer has been measured on {name}, so there is no quarter of its time")
    return min(map(statistics.median, seconds.values()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["measure", "one", "page"], help="one: used by measure")
    parser.add_argument("--sets", type=Path, help="folder with SET/{train,val,test}/CLASS/IMAGE")
    parser.add_argument("--set", action="append", default=[], help="only this set")
    parser.add_argument("--only", action="append", default=[], help="only the row of this name")
    parser.add_argument("--name", help="record the row under another name")
    parser.add_argument("--again", action="store_true", help="measure what is recorded too")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do == "page":
        from transfer_page import write

        write(read(args.records))
    elif args.sets is None:
        parser.error("--sets is needed to measure")
    else:
        {"measure": measure, "one": one}[args.do](args)


def run_command(
    description: str | None,
    records: Path,
    measure: Callable[[argparse.Namespace], None],
    write: Callable[[list[Record]], None],
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Run the command line of a script that measures runs on sets, or writes a page.

    Args:
        description: What the script does.
        records: Default file of records.
        measure: Measures, by the options that are given.
        write: Writes the page from the records.
        options: Adds the script's own options.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["measure", "page"])
    parser.add_argument("--sets", type=Path, help="folder with SET/{train,val,test}/CLASS/FILE")
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    parser.add_argument("--set", action="append", default=[], help="only this set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--again", action="store_true", help="measure what is recorded too")
    parser.add_argument("--records", type=Path, default=records)
    options(parser)
    args = parser.parse_args()
    if args.do == "page":
        write(read(args.records))
    elif args.sets is None or args.runs is None:
        parser.error("--sets and --runs are needed to measure")
    else:
        measure(args)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
