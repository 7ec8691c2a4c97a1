"""Runs that are killed, and what they leave; shared by the tests of resuming."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import zoo
from tests.pipeline.conftest import rows, sha256
from zoo.events import EpochEnd, Progress, StepEnd


class Crash(BaseException):
    """What no code of zoo's expects: as good as a kill, without a process of its own."""


def crash_at(count, kind=StepEnd):
    """A listener that ends the run at the `count`th event of that kind."""
    seen = 0

    def listen(event):
        nonlocal seen
        if isinstance(event, kind):
            seen += 1
            if seen == count:
                raise Crash

    return listen


def resume(out, fields, **more):
    """Begin the run in `out`, or go on with it, as `--resume auto` does."""
    if Path(out, "checkpoint", "last.safetensors").exists():
        return zoo.resume(out, **more)
    return zoo.finetune(out=out, **fields, **more)


def crashed_and_resumed(out, fields, crashes, **resumed_with):
    """The run after all of these crashes, each in what the one before left."""
    for count, kind in crashes:
        with suppress(Crash):
            resume(out, fields, listen=crash_at(count, kind))
    return resume(out, fields, **resumed_with)


def check_equal(run, undisturbed):
    """The same weights to the bit, and the same metrics."""
    assert sha256(run) == sha256(undisturbed), "other weights"
    differing = [
        pair for pair in zip(rows(run), rows(undisturbed), strict=True) if pair[0] != pair[1]
    ]
    assert not differing, differing


def check_whole(folder):
    """Nothing half-written is left, and the checkpoint says that the run is complete."""
    names = {p.name for p in Path(folder).rglob("*")}
    assert names >= {"model.safetensors", "last.safetensors"}, names
    assert not {name for name in names if name.startswith(".")} - {".lock"}, names


def killed_run(home, data, out, fields, kill_at, events=None):
    """Begin or go on with a run in this process, which is killed at one of its writes.

    `kill_at` is (what, count): at the count-th fsync, rename or whole tensor file, before it is
    done; or at the count-th event.
    """
    os.environ["ZOO_HOME"] = home
    what, left = kill_at

    def die(*_):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(function):
        def wrapped(*args, **kwargs):
            die()
            return function(*args, **kwargs)

        return wrapped

    if what == "fsync":
        os.fsync = before(os.fsync)
    elif what == "rename":
        Path.replace = before(Path.replace)
    elif what == "unlink":
        Path.unlink = before(Path.unlink)
    elif what == "tensors":
        import zoo.runs.checkpoint_file

        zoo.runs.checkpoint_file.save_file = before(zoo.runs.checkpoint_file.save_file)
    elif what == "half":
        import zoo.runs.checkpoint_file

        whole = zoo.runs.checkpoint_file.save_file

        def half(tensors, path, metadata):
            whole(tensors, path, metadata)
            os.truncate(path, Path(path).stat().st_size // 2)
            die()
            whole(tensors, path, metadata)

        zoo.runs.checkpoint_file.save_file = half

    def listen(event):
        if what == "event" and isinstance(event, StepEnd | EpochEnd | Progress):
            die()
        if events is not None and isinstance(event, StepEnd | Progress):
            events.send(type(event).__name__)

    resume(out, {"data": data, **fields}, listen=listen)
