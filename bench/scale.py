"""Measure how work divides among processes, and what grows with the number of images.

python bench/scale.py [--only divided|memory|probe|ranks]

- divided: CPU seconds of one process against the busiest of two, for features of a probe and for
  `zoo predict --out`, from when libraries are imported; on a machine with two idle cores, this is
  the ratio of times.
- memory: peak memory of each of two processes that predict, for a number of images and four times
  as many.
- probe: peak memory of fitting a probe of many classes, besides libraries, against the formula in
  docs/scaling.md; a few steps of one penalty, after which it no longer grows.
- ranks: an epoch of fine-tuning in many processes of a tiny network: whether each image was read
  once, images a step, and bytes through the loopback device against the formula in
  docs/scaling.md. Other programs that use the loopback device are counted too.

Prints a line of JSON for each. Photos are generated, and nothing outside a temporary folder is
written.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BACKBONE = "timm/test_efficientnet"

#: Iterations of L-BFGS after which the memory of `probe` no longer grows.
STEPS = 12

#: What each process of a launcher runs: a command of zoo; it leaves RANK.json.
LAUNCHED = """
import json, os, resource, sys, time
from pathlib import Path

from zoo.cli import main
import zoo.pipeline.finetune, zoo.prediction.output, zoo.runs.stream
from zoo.features import extract

features = 0.0
collect = extract.collect


def timed(*args, **options):
    global features
    begun = time.process_time()
    found = collect(*args, **options)
    features += time.process_time() - begun
    return found


extract.collect = timed
begun = time.process_time()
main(sys.argv[1:], standalone_mode=False)
Path(os.environ.get("RANK", "0") + ".json").write_text(json.dumps({
    "cpu": time.process_time() - begun,
    "features": features,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=sorted(PARTS))
    parser.add_argument("--images", type=int, default=512, help="photos to predict")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the probe")
    parser.add_argument("--classes", type=int, default=5_000, help="classes of the probe")
    parser.add_argument("--features", type=int, default=128, help="features of the probe")
    parser.add_argument("--ranks", type=int, default=32, help="processes that train together")
    parser.add_argument("--steps", type=int, default=6, help="steps that they train")
    given = parser.parse_args()
    for name in given.only or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.environ["ZOO_HOME"] = str(Path(folder, "home"))
            print(json.dumps({"part": name, **PARTS[name](given)}), flush=True)
            os.chdir("/")


def divided(given: argparse.Namespace) -> dict[str, object]:
    """Compare one process with two."""
    photos(Path("photos"), given.images, size=256)
    run()
    predicted = {n: launch(n, "predict", "run", "photos", f"--out={n}.jsonl") for n in (1, 2)}
    probed = {}
    for n in (1, 2):
        fields = [f"--out=probe{n}", f"--backbone={BACKBONE}", "--weights=none", "--train=probe"]
        fields += ["--device=cpu", "--cache-size=0", "--no-report", "--hflip", "--crop-scale=0.25"]
        probed[n] = launch(n, "finetune", "--data=photos", *fields)

    def of(found: dict[int, list[dict[str, float]]], name: str) -> dict[str, object]:
        (one,), two = found[1], found[2]
        most = max(each[name] for each in two)
        return {
            "one": round(one[name], 2),
            "busiest_of_two": round(most, 2),
            "ratio": round(one[name] / most, 2),
        }

    return {"predict": of(predicted, "cpu"), "features": of(probed, "features")}


def memory(given: argparse.Namespace) -> dict[str, object]:
    """Measure the peak memory of processes that predict, by the number of images."""
    photos(Path("photos"), given.images, size=64)
    run()
    small = Path("few.txt")
    names = [str(path) for path in sorted(Path("photos").rglob("*.png"))]
    small.write_text("\n".join(names[: len(names) // 4]))
    Path("many.txt").write_text("\n".join(names))
    peaks = {
        name: max(
            each["peak"]
            for each in launch(2, "predict", "run", f"@{name}.txt", f"--out={name}.csv")
        )
        for name in ("few", "many")
    }
    return {
        "images": [len(names) // 4, len(names)],
        "peak_mb": [round(peak / 1e6) for peak in peaks.values()],
        "ratio": round(peaks["many"] / peaks["few"], 3),
    }


def probe(given: argparse.Namespace) -> dict[str, object]:
    """Fit a probe to random features in a process of its own."""
    child = multiprocessing.get_context("spawn").Process(
        target=fit, args=(given.rows, given.classes, given.features)
    )
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(f"probe: exit code {child.exitcode}")
    found: dict[str, object] = json.loads(Path("probe.json").read_text())
    return found


def fit(rows: int, classes: int, width: int) -> None:
    """Fit a probe; leaves its peak memory in probe.json."""
    import torch

    from zoo.features import probe

    probe.PENALTIES = probe.PENALTIES[:1]
    minimise = probe._Problem.minimise

    def few_steps(*args: Any, **options: Any) -> torch.Tensor:
        return minimise(*args, **{**options, "most_iterations": STEPS})

    probe._Problem.minimise = few_steps  # type: ignore[method-assign]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begun = time.process_time()
    random = torch.Generator().manual_seed(0)
    targets = torch.randint(classes, (rows,), generator=random)
    centres = torch.randn(classes, width, generator=random)
    features = centres[targets] + torch.randn(rows, width, generator=random)
    probe.fit_probe(features, targets, classes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    found = {
        "rows": rows,
        "classes": classes,
        "features": width,
        "cpu_seconds": round(time.process_time() - begun),
        "peak_mb": round(peak / 1e6),
        "logits_mb": round(4 * rows * classes / 1e6),
    }
    Path("probe.json").write_text(json.dumps(found))


def ranks(given: argparse.Namespace) -> dict[str, object]:
    """Train in many processes, which are forked so that libraries are imported once."""
    import torch

    import zoo

    torch.set_num_threads(1)
    processes, batch = given.ranks, 2 * given.ranks
    photos(Path("data/train"), batch * given.steps, size=32)
    photos(Path("data/val"), processes * 2, size=32)
    parameters = sum(p.numel() for p in zoo.build(BACKBONE, 2, weights="none").parameters())
    port = free_port()
    before = loopback()
    begun = time.perf_counter()
    fork = multiprocessing.get_context("fork")
    children = [
        fork.Process(target=one_rank, args=(rank, processes, port, batch))
        for rank in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    codes = [child.exitcode for child in children]
    seconds = time.perf_counter() - begun
    if any(codes):
        raise SystemExit(f"processes ended with {codes}")
    sent = loopback() - before
    found = [json.loads(Path(f"{rank}.json").read_text()) for rank in range(processes)]
    read = [name for each in found for name in each["read"]]
    gradients = 2 * (processes - 1) * 4 * parameters * given.steps
    return {
        "ranks": processes,
        "images": batch * given.steps,
        "read": len(read),
        "read_once": len(read) == len(set(read)) == batch * given.steps,
        "images_a_step": batch,
        "steps": sorted({each["steps"] for each in found}),
        "images_of_each": sorted({len(each["read"]) for each in found}),
        "peak_mb_of_each": [round(each(e["peak"] for e in found) / 1e6) for each in (min, max)],
        "seconds": round(seconds),
        "loopback_mb": round(sent / 1e6),
        "gradients_by_formula_mb": round(gradients / 1e6),
    }


def one_rank(rank: int, processes: int, port: int, batch: int) -> None:
    """Train as one of the processes; leaves what it has read in RANK.json."""
    import zoo
    from zoo.data.dataset import ImageDataset

    read: list[str] = []
    view = ImageDataset._view

    def counted(self: ImageDataset, index: Any, image: Any) -> Any:
        if self.augment is not None:
            read.append(self.decoded.samples[index[1]].name)
        return view(self, index, image)

    ImageDataset._view = counted  # type: ignore[method-assign]
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    zoo.finetune(
        "data",
        out="run",
        backbone=BACKBONE,
        weights="none",
        train="finetune",
        image_size=32,
        epochs=1,
        global_batch=batch,
        interpolate=False,
        cache_size=0.0,
        device="cpu",
        report=False,
    )
    found = {
        "read": read,
        "steps": -(-len(read) // (batch // processes)),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    Path(f"{rank}.json").write_text(json.dumps(found))


def launch(processes: int, *args: str) -> list[dict[str, float]]:
    """Run a command of zoo in one or more processes; returns what each has measured."""
    Path("launched.py").write_text(LAUNCHED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += [f"--nproc-per-node={processes}"]
    command = [*(launcher if processes > 1 else [sys.executable]), "launched.py", *args]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return [json.loads(Path(f"{rank}.json").read_text()) for rank in range(processes)]


def run() -> None:
    """Make a small run to predict with."""
    photos(Path("few"), 40, size=64)
    fields = [f"--backbone={BACKBONE}", "--weights=none", "--train=probe", "--device=cpu"]
    launch(1, "finetune", "--data=few", "--out=run", *fields, "--no-report")


def photos(folder: Path, count: int, *, size: int) -> None:
    """Make photos of two classes, no two of them alike."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(count)
    for n in range(count):
        name = ("blue", "red")[n % 2]
        small = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        small[..., 2 if name == "blue" else 0] |= 0x80
        path = folder / name / f"{n:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(path)


def loopback() -> int:
    """Return the number of bytes that the loopback device has sent."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    (fields,) = (line.split() for line in lines if line.strip().startswith("lo:"))
    return int(fields[9])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "divided": divided,
    "memory": memory,
    "probe": probe,
    "ranks": ranks,
}


if __name__ == "__main__":
    main()
