"""Measure a probe from a cold start against the sum of what it can't do without.

    python bench/probe.py --data photos --engine torch --engine onnxruntime

The sum is that of importing torch, decoding all images once on all cores, and their forward pass at
the peak of matrix multiplication. These and the probe are measured in turn, `--rounds` times, in
processes of their own. The probe is `zoo finetune --train probe --no-report` without cached
features. `first` is an earlier run of the probe, which converts the network if the engine is not
torch; the converted network is kept. Figures are medians, in seconds; `ratio` is that of the probe
to the sum. Prints JSON, one line an engine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder, as of zoo finetune")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--engine", action="append", help="default: torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.parts:
        print(json.dumps(parts(given)))
        return
    for engine in given.engine or ["torch"]:
        print(json.dumps(measure(given, engine)), flush=True)


def measure(given: argparse.Namespace, engine: str) -> dict[str, object]:
    """Measure one engine."""
    times: dict[str, list[float]] = defaultdict(list)
    about: dict[str, object] = {}
    again = ["--data", str(given.data), "--backbone", given.backbone]
    with tempfile.TemporaryDirectory() as folder:
        first = probe(Path(folder), [*again, "--engine", engine])
        for _ in range(given.rounds):
            times["import"].append(timed([sys.executable, "-c", "import torch"], os.environ))
            command = [sys.executable, __file__, "--parts", *again]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            about = json.loads(done.stdout)
            for part in ("decode", "forward"):
                times[part].append(float(str(about.pop(part))))
            times["probe"].append(probe(Path(folder), [*again, "--engine", engine]))
    medians = {name: statistics.median(each) for name, each in times.items()}
    bound = sum(medians[part] for part in ("import", "decode", "forward"))
    return {
        "engine": engine,
        **about,
        "first": round(first, 2),
        **{name: round(value, 2) for name, value in medians.items()},
        "ratio": round(medians["probe"] / bound, 3),
    }


def probe(folder: Path, options: list[str]) -> float:
    """Return the seconds of a probe without cached features."""
    for name in ("home/cache", "run"):
        shutil.rmtree(folder / name, ignore_errors=True)
    command = [sys.executable, "-m", "zoo", "finetune", "--train", "probe", "--no-report"]
    command += ["--device", "cpu", "--out", str(folder / "run"), *options]
    return timed(command, {**os.environ, "ZOO_HOME": str(folder / "home")})


def timed(command: list[str], environment: dict[str, str] | os._Environ[str]) -> float:
    """Return the seconds of a command."""
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def parts(given: argparse.Namespace) -> dict[str, object]:
    """Measure decoding, and the seconds of the forward pass at the peak."""
    import torch

    from zoo import allocator, plugins
    from zoo.data.decoded import DecodedImages
    from zoo.data.transforms import eval_transform
    from zoo.events import ignore
    from zoo.machine.speed import device_name, matmul_peak
    from zoo.planning.inputs import read_data
    from zoo.recipe import make_recipe
    from zoo.runs.stream import cores

    allocator.tune()
    backbone, cpu = plugins.get(given.backbone), torch.device("cpu")
    if backbone.macs is None:
        raise SystemExit(f"the multiply-accumulates of {backbone.name} are not known")
    splits = read_data(make_recipe(None, data=given.data), ignore)
    samples = [*splits.train, *splits.val]
    images = DecodedImages(samples, eval_transform(backbone.preprocess).prepare)
    started = time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(images.__getitem__, range(len(samples))):
            pass
    decode = time.perf_counter() - started
    return {
        "device": device_name(cpu),
        "cores": cores(),
        "torch": torch.__version__,
        "backbone": backbone.name,
        "images": len(samples),
        "decode": decode,
        "forward": 2 * backbone.macs * len(samples) / matmul_peak(cpu, seconds=1),
    }


if __name__ == "__main__":
    main()
