"""Measure `zoo predict` against what its engine and decoding on all cores allow together.

python bench/predict.py RUN --data photos

Three things are measured in turn, `--rounds` times, on the same images: decoding on all cores, the
forward pass of the engine, and both at once as `zoo predict --out` does it, its file included but
not the start of Python. The bound is 1 / (1 / engine + 1 / decode) images/s, as on a CPU both need
the same cores. Figures are medians, in images/s; `share` is that of the bound. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zoo import allocator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--engine", action="append", help="default: torch and onnxruntime")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    allocator.tune()
    for engine in given.engine or ["torch", "onnxruntime"]:
        print(json.dumps(measure(given, engine)), flush=True)


def measure(given: argparse.Namespace, name: str) -> dict[str, object]:
    """Measure one engine."""
    import torch

    import zoo
    from zoo.data.dataset import ImageDataset
    from zoo.data.sources.layout import images_in
    from zoo.machine.speed import device_name
    from zoo.prediction.engines import choose_engine
    from zoo.prediction.inputs import Item, inputs_sha256
    from zoo.prediction.output import job_of, writing
    from zoo.prediction.rows import Layout
    from zoo.runs.stream import cores, predictions

    run = zoo.load(given.run)
    found = images_in(given.data)
    paths = [found[n % len(found)] for n in range(given.images)]
    engine = choose_engine(run, name, batch_size=given.batch_size).engine
    batch = ImageDataset.stack([run.prepare(path) for path in paths[: engine.batch_size]])
    asked = run.asked(top_k=len(run.class_names))
    layout = Layout(class_names=run.class_names, several=False, sets=False, top_k=None)
    job = job_of(run, {}, inputs_sha256(Item(str(path)) for path in paths), engine.name)

    def decode() -> None:
        with ThreadPoolExecutor(cores()) as pool:
            for _ in pool.map(run.prepare, paths):
                pass

    def compute() -> None:
        for _ in range(0, len(paths), len(batch)):
            engine.compute(batch)

    def both() -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.jsonl"
            with writing(out, job, list(map(str, paths)), layout, resume=False) as (_, write):
                pairs = ((path, path) for path in paths)
                for path, each in zip(paths, predictions(run, pairs, asked, engine), strict=True):
                    write(str(path), each)

    computed = -(-len(paths) // len(batch)) * len(batch)
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "decode": (decode, len(paths)),
        "engine": (compute, computed),
        "predict": (both, len(paths)),
    }
    for _ in range(2):
        engine.compute(batch)  # Folds, compares the first batch, warms up.
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(given.rounds):
        for way, (call, _) in ways.items():
            started = time.perf_counter()
            call()
            times[way].append(time.perf_counter() - started)
    speeds = {way: images / statistics.median(times[way]) for way, (_, images) in ways.items()}
    bound = 1 / (1 / speeds["engine"] + 1 / speeds["decode"])
    return {
        "engine_name": engine.name,
        "device": device_name(next(run.model.parameters()).device),
        "cores": cores(),
        "torch": torch.__version__,
        "backbone": run.info.backbone,
        "images": len(paths),
        "batch_size": engine.batch_size,
        **{way: round(speed, 1) for way, speed in speeds.items()},
        "bound": round(bound, 1),
        "share": round(speeds["predict"] / bound, 3),
    }


if __name__ == "__main__":
    main()
