"""Throughput and latency of `zoo serve` with several clients, and the ratio to the run itself.

    python bench/serve.py RUN --data photos

The service runs in a process of its own on this machine; each client sends one image after the
other over one connection. The bare run decodes and classifies the same images in this process.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from zoo import allocator
from zoo.data.sources.layout import files_in


@dataclass(frozen=True, kw_only=True)
class Load:
    """What was measured with so many clients.

    Attributes:
        clients: How many.
        images_per_second: Answered images.
        p50_ms, p95_ms, p99_ms: Latency of a request.
        ratio: Images per second divided by those of the bare run, decoding included.
        ratio_engine: The same, divided by those of its forward passes alone.
    """

    clients: int
    images_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    ratio: float
    ratio_engine: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of photos")
    parser.add_argument("--images", type=int, default=512, help="for each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    found, _ = files_in(args.data)
    contents = [file.read_bytes() for file in found[: args.images]]
    with served(args.run, args.batch_size) as url:
        answered = [load(url, contents, args.images, clients) for clients in args.clients]
    engine, both = bare(args.run, contents, args.batch_size)
    loads = [
        Load(
            clients=clients,
            images_per_second=len(times) / seconds,
            **{f"p{p}_ms": float(np.percentile(times, p)) * 1000 for p in (50, 95, 99)},
            ratio=len(times) / seconds / both,
            ratio_engine=len(times) / seconds / engine,
        )
        for clients, (seconds, times) in zip(args.clients, answered, strict=True)
    ]
    print(f"the run itself: {engine:.1f} images/s, {both:.1f} with decoding")
    print("clients  images/s    p50 ms    p95 ms    p99 ms   ratio  ratio to forward passes")
    for each in loads:
        print(
            f"{each.clients:7}  {each.images_per_second:8.1f}  {each.p50_ms:8.1f}  "
            f"{each.p95_ms:8.1f}  {each.p99_ms:8.1f}  {each.ratio:6.2f}  {each.ratio_engine:6.2f}"
        )
    if args.out:
        figures = {"engine": engine, "bare": both, "loads": [asdict(each) for each in loads]}
        args.out.write_text(json.dumps(figures, indent=2), encoding="utf-8")


@contextmanager
def served(run: Path, batch_size: int) -> Iterator[str]:
    """Start the service; its address."""
    command = [sys.executable, "-m", "zoo", "serve", str(run), "--port=0"]
    command += [f"--batch-size={batch_size}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None  # noqa: S101
    try:
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            if address := re.search(r"http://\S+/", line):
                yield address[0]
                break
        else:
            raise SystemExit("the service did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def load(
    url: str, contents: Sequence[bytes], images: int, clients: int
) -> tuple[float, list[float]]:
    """Send images from so many clients; seconds in all, and of each request."""
    address = urlsplit(url)
    upcoming = itertools.islice(itertools.cycle(contents), images)
    lock = threading.Lock()
    times: list[float] = []

    def client() -> None:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
        while True:
            with lock:
                content = next(upcoming, None)
            if content is None:
                return connection.close()
            started = time.perf_counter()
            connection.request("POST", "/predict", content)
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise RuntimeError(text.decode())
            times.append(time.perf_counter() - started)

    # The first images pay for what is loaded when it is first used.
    warm = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    for content in contents[:2]:
        warm.request("POST", "/predict", content)
        warm.getresponse().read()
    warm.close()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if len(times) < images:
        raise SystemExit(f"{images - len(times)} requests were not answered")
    return seconds, times


def bare(path: Path, contents: Sequence[bytes], batch_size: int) -> tuple[float, float]:
    """Images per second of the run's forward passes alone, and with decoding before them."""
    allocator.tune()
    from zoo.runs.read import load as load_run

    run = load_run(path)
    asked = run.asked()
    run.predict(contents[:2])
    started = time.perf_counter()
    decoded = [run.prepare(content) for content in contents]
    decoding = time.perf_counter() - started
    started = time.perf_counter()
    for n in range(0, len(decoded), batch_size):
        part = decoded[n : n + batch_size]
        run.predict_prepared(part, [None] * len(part), asked)
    computing = time.perf_counter() - started
    return len(contents) / computing, len(contents) / (computing + decoding)


if __name__ == "__main__":
    main()
