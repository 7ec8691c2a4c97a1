"""Runs that are interrupted or killed while they fill a cache, and runs that share one."""

import functools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.conftest import make_photos
from tests.data.reading import read_splits
from tests.pipeline.conftest import check_same, flags, hear, sha256, start
from zoo import cache
from zoo.backbone import Preprocess
from zoo.cache.records import write
from zoo.cli import main
from zoo.data.dataset import ImageDataset
from zoo.data.decoded import DecodedImages, content_keys
from zoo.data.transforms import eval_transform
from zoo.errors import CacheError
from zoo.events import Progress, ignore
from zoo.features.rows import fill, views_of

#: What a run fills its cache with, by its fields.
FILLING = {
    "features": {"train": "probe", "views": 2},
    "activations": {"train": "finetune", "freeze": 4, "batch_size": 64},
    "images": {"train": "finetune", "batch_size": 64},
}
FIRST_FAST = [
    "activations",
    *(pytest.param(k, marks=pytest.mark.slow) for k in ("features", "images")),
]


@pytest.fixture(scope="session")
def many_photos(tmp_path_factory):
    """Enough that a cache is filled in several writes: 3 classes of 70. Not to be changed."""
    return make_photos(tmp_path_factory.mktemp("many") / "colours", 70)


@pytest.fixture(scope="module")
def plain(many_photos, tmp_path_factory):
    """The run of a kind without a cache, made once. Not to be changed."""

    @functools.cache
    def plain(kind):
        out = tmp_path_factory.mktemp("plain") / "run"
        fields = {**start(**FILLING[kind]), "cache_size": 0.0}
        return zoo.finetune(many_photos, out=out, listen=ignore, **fields)

    return plain


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have zoo imported already; kills those that are left."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipeline.test_interrupted", "zoo_timm", "timm"])
    started = []

    def begin(function, *args):
        process = context.Process(target=function, args=args)
        process.start()
        started.append(process)
        return process

    yield begin, context
    for process in started:
        process.kill()
        process.join()


def finetune(home, data, out, fields, events=None, go=None, dies_at=0):
    """A whole run in another process, which waits for `go`, and tells `events` what it fills.

    It kills itself when that has been told `dies_at` times.
    """
    os.environ["ZOO_HOME"] = home
    told = 0

    def listen(event):
        nonlocal told
        if events is not None and isinstance(event, Progress):
            events.send(event.what)
            told += 1
            if told == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if go is not None:
        go.wait()
    zoo.finetune(data, out=out, listen=listen, **fields)


@pytest.mark.parametrize("kind", FIRST_FAST)
@pytest.mark.medium
def test_an_interrupted_run_goes_on_from_what_was_kept(many_photos, plain, kind):
    fields = start(**FILLING[kind])
    interrupted_at = []

    def listen(event):
        if isinstance(event, Progress) and event.done > 64:
            interrupted_at.append(event.done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(many_photos, out="interrupted", listen=listen, **fields)
    run, _, computed = hear(many_photos, "run", **fields)
    total = 168 + 42 * (kind == "images")
    assert interrupted_at == [128]
    assert computed[kind] == total - 128
    check_same(run, plain(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FIRST_FAST)
def test_a_disk_that_fills_up_meanwhile_is_said_and_changes_nothing(
    many_photos, plain, kind, monkeypatch
):
    fields = start(**FILLING[kind])
    undisturbed = plain(kind)
    written = []

    def write_two(folder, *given):
        if folder.parent.name == kind:
            written.append(folder)
            if len(written) > 2:
                raise OSError(28, "No space left on device")
        write(folder, *given)

    monkeypatch.setattr("zoo.cache.store.write", write_two)
    run, notes, _ = hear(many_photos, "run", **fields)
    said = [note for note in notes if "No space left on device; free space with" in note]
    assert said
    assert all("are not cached" in note for note in said)
    check_same(run, undisturbed)


@pytest.mark.slow
def test_interrupted_after_the_probe_a_run_keeps_the_probe(many_photos):
    def listen(event):
        if isinstance(event, Progress) and event.what == "activations":
            raise KeyboardInterrupt

    fields = start(train="probe+finetune", freeze=3)
    with pytest.raises(zoo.Stopped, match="run: the probe"):
        zoo.finetune(many_photos, out="run", listen=listen, **fields)
    run = zoo.load("run")
    assert run.info.epoch == 0
    probe, _, _ = hear(many_photos, "probe", **{**fields, "train": "probe", "freeze": "none"})
    assert sha256(run) == sha256(probe)


def killed_at_random_moments(many_photos, processes, monkeypatch, kind, times, seed=0):
    """Kill a run so many times while it fills its cache, then let one finish on what is left."""
    begin, context = processes
    fields = start(**FILLING[kind])
    undisturbed, _, _ = hear(many_photos, "undisturbed", **fields)
    home = Path("killed").absolute()
    monkeypatch.setenv("ZOO_HOME", str(home))
    draw = random.Random(seed)
    killed = 0
    for n in range(times):
        receiver, sender = context.Pipe(duplex=False)
        # A fast machine may be done before it is killed; the first time it never is.
        dies_at = draw.randint(1, 2) if n == 0 else 0
        process = begin(finetune, str(home), many_photos, f"run{n}", fields, sender, None, dies_at)
        sender.close()
        if dies_at:
            process.join()
        elif draw.random() < 0.7 and receiver.poll(60):
            time.sleep(draw.uniform(0, 0.1))
        else:
            time.sleep(draw.uniform(0, 1))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed
    run, notes, _ = hear(many_photos, "finished", **fields)
    assert not [note for note in notes if "not cached" in note]
    assert sha256(run) == sha256(undisturbed)


# That a store outlives its writer's kill is tested in tests/cache/test_damage.py, too, in a second.
@pytest.mark.slow
@pytest.mark.parametrize("kind", FILLING)
@pytest.mark.parametrize("repeat", range(20))
def test_a_run_killed_again_and_again_leaves_a_cache_that_gives_the_same(
    many_photos, processes, kind, monkeypatch, repeat
):
    killed_at_random_moments(many_photos, processes, monkeypatch, kind, 1 + repeat % 4, seed=repeat)


def test_of_two_runs_that_make_a_cache_the_second_leaves_it_to_the_first(photos):
    """Neither found one when it began; the first to keep something is the one that writes."""
    samples = read_splits(photos, val_split=0.2, seed=0).train
    images = ImageDataset(
        DecodedImages(
            samples, eval_transform(Preprocess(size=8)).prepare, keys=content_keys(samples)
        )
    )

    def keep(store):
        return fill(
            images,
            views_of(images),
            lambda pixels: pixels.float().mean((2, 3)),
            store,
            device=torch.device("cpu"),
            what="activations",
            listen=ignore,
        )

    stores = [cache.open_store("activations", {}, dtype=np.float32) for _ in range(2)]
    assert keep(stores[0]) == len(samples)
    with pytest.raises(CacheError, match="another process"):
        keep(stores[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILLING)
def test_two_runs_that_fill_one_cache_at_once_give_the_same(photos, processes, kind):
    begin, context = processes
    fields = start(**FILLING[kind])
    plain, _, _ = hear(photos, "plain", **fields, cache_size=0.0)
    home, go = str(Path("home").absolute()), context.Event()
    both = [begin(finetune, home, photos, f"run{n}", fields, None, go) for n in range(2)]
    go.set()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    first, second = (zoo.load(f"run{n}") for n in range(2))
    assert sha256(first) == sha256(second)
    check_same(first, plain)


def command(home, arguments, events):
    """`zoo` in another process, as a terminal starts it."""
    os.environ["ZOO_HOME"] = home
    events.send("starts")
    main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["activations", pytest.param("features", marks=pytest.mark.slow)])
def test_ctrl_c_while_a_cache_is_filled_keeps_it_and_can_be_gone_on_with(
    many_photos, processes, kind, monkeypatch
):
    begin, context = processes
    fields = {**start(**FILLING[kind]), "data": many_photos, "out": "run"}
    arguments = ["finetune", *flags(fields)]
    receiver, sender = context.Pipe(duplex=False)
    home = Path("home").absolute()
    monkeypatch.setenv("ZOO_HOME", str(home))
    process = begin(command, str(home), arguments, sender)
    assert receiver.recv() == "starts"
    index = home / "cache" / kind
    deadline = time.monotonic() + 60
    while not list(index.glob("*/index.bin")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert zoo.resume("run").info.val_accuracy
    assert any(store.kind == kind for store in cache.stored())


#: A run in a process that ends all of its processes at an event, as a job scheduler does.
STOPPED = """
import json, os, subprocess, sys, time
import zoo

kind, left, fields = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])


def listen(event):
    global left
    left -= isinstance(event, getattr(zoo.events, kind))
    if isinstance(event, getattr(zoo.events, kind)) and left == 0:
        # From another process: workers of a data loader end well by a signal of their parent.
        subprocess.Popen(["kill", "-TERM", "--", f"-{os.getpgrp()}"])
        time.sleep(1)


if __name__ == "__main__":
    try:
        zoo.finetune(**fields, listen=listen)
    except zoo.Stopped as stopped:
        sys.exit(128 + stopped.signum)
"""


@pytest.mark.medium
@pytest.mark.parametrize(
    ("kind", "count"),
    [("StepEnd", 2), ("EpochEnd", 1), pytest.param("StepEnd", 5, marks=pytest.mark.slow)],
)
def test_a_signal_to_all_processes_keeps_the_run(split_photos, kind, count):
    fields = {
        **start(epochs=2, train="finetune", workers=2, ema_decay=0.9, batch_size=8),
        "data": str(split_photos),
    }
    undisturbed = zoo.finetune(**{**fields, "out": "whole", "workers": 0}, listen=ignore)
    ended = subprocess.run(
        [sys.executable, "-c", STOPPED, kind, str(count), json.dumps({**fields, "out": "run"})],
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert "Traceback" not in ended.stderr
    run = zoo.resume("run", listen=ignore)
    assert sha256(run) == sha256(undisturbed)
