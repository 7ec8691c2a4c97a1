"""The file of predictions: written as they are made, finished atomically, continued after a kill.

Rows are written to `.NAME.partial` beside the file, as JSON Lines, whatever its format. At the end,
this becomes the file, or is converted to it. `.NAME.partial.json` has what was asked for, which
must be the same when it is continued.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.errors import RunError
from zoo.hookspecs import DISTRIBUTION
from zoo.io.files import exists, replacing
from zoo.io.text import printable
from zoo.prediction.rows import Layout, as_row, write_csv, write_jsonl_row, write_parquet
from zoo.runs.read import Prediction, Run
from zoo.runs.stream import Unreadable
from zoo.weights import tensors_sha256

#: Formats by the file's extension.
FORMATS = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for; all of it must be the same when it is continued.

    Attributes:
        run: SHA-256 of the run's weights and metadata.
        zoo: Version of zoo.
        options: Options that determine rows, by name.
        inputs: SHA-256 of the names of the images.
        engine: Name of what computes.
    """

    run: str
    zoo: str
    options: Mapping[str, Any]
    inputs: str
    engine: str


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What an earlier call has left.

    Attributes:
        rows: Number of whole rows.
        unreadable: How many of them are of unreadable images.
    """

    rows: int = 0
    unreadable: int = 0


def job_of(run: Run, options: Mapping[str, Any], inputs: str, engine: str) -> Job:
    """Return the job of a run, with the options and inputs that are asked for."""
    # The metadata has what a prediction depends on besides the weights, such as the temperature.
    about = json.dumps(run.info.to_metadata(), sort_keys=True)
    weights = tensors_sha256(run.model.state_dict())
    return Job(
        run=hashlib.sha256(f"{weights}{about}".encode()).hexdigest(),
        zoo=metadata.version(DISTRIBUTION),
        options={**options, "device": next(run.model.parameters()).device.type},
        inputs=inputs,
        engine=engine,
    )


def check_format(out: Path) -> None:
    """Check that a file's extension is that of a format.

    Raises:
        RunError: It is not.
    """
    if out.suffix not in FORMATS:
        raise RunError(f"{out}: name a file that ends in {', '.join(FORMATS)}")


def engine_of(out: Path) -> str | None:
    """Return the engine that an unfinished file was begun with; None if there is none."""
    state = _read_state(_state(out))
    engine = state.get("engine")
    return engine if isinstance(engine, str) else None


@contextmanager
def writing(
    out: Path, job: Job, names: Sequence[str], layout: Layout, *, resume: bool
) -> Iterator[tuple[Begun, Callable[[str, Prediction | Unreadable], None]]]:
    """Write a file of predictions; when the context ends without an error, the file is complete.

    With an error, the rows that were written remain, and can be continued.

    Args:
        out: The file, which must not exist.
        job: What is asked for.
        names: Names of all images, in order.
        layout: What rows have.
        resume: Continue an unfinished file, if there is one.

    Yields:
        How many rows there are already, and a function that writes the next one.

    Raises:
        RunError: The file exists or can't be written, another process writes it, there is an
            unfinished one and `resume` is not set, or it was begun with something else.
    """
    check_format(out)
    partial = _partial(out)
    try:
        if not out.parent.is_dir():
            raise RunError(f"can't write {out}: there is no folder {out.parent}")
        with _locked(partial):
            begun = _begin(out, job, names, resume=resume)
            with partial.open("ab") as file:
                yield begun, lambda name, found: write_jsonl_row(as_row(name, found, layout), file)
            _finish(out, layout)
    except OSError as error:
        raise RunError(
            f"can't write {out}: {error.strerror or error}",
            hint=f"the rows so far are in {partial}; `resume` continues"
            if exists(partial)
            else None,
        ) from error


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def _state(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial.json")


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    lock = FileLock(partial.with_name(f"{partial.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"another process is writing {partial}") from None
    try:
        yield
    finally:
        # Deleted while it is held; on Windows this fails, and the empty file remains.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def _begin(out: Path, job: Job, names: Sequence[str], *, resume: bool) -> Begun:
    """Create the unfinished file, or cut an earlier one after its last whole row."""
    partial, state = _partial(out), _state(out)
    if os.path.lexists(out):
        raise RunError(
            f"{out} exists already; zoo does not overwrite predictions",
            hint="delete it, or name another file",
        )
    if not os.path.lexists(partial):
        with replacing(state) as beside:
            beside.write_text(json.dumps(_content(job)), encoding="utf-8")
        partial.touch()
        return Begun()
    if not resume:
        raise RunError(
            f"{partial} is an unfinished prediction",
            hint="`resume` continues it; to start again, delete it",
        )
    before, now = _read_state(state), _content(job)
    if differs := [name for name, value in now.items() if before.get(name) != value]:
        raise RunError(
            f"{partial} was begun with other {_differing(differs, before, now)}",
            hint="continue with the same, or delete it to start again",
        )
    return _cut(partial, names)


def _content(job: Job) -> dict[str, Any]:
    content = {**job.options, "run": job.run, "zoo": job.zoo}
    return {**content, "inputs": job.inputs, "engine": job.engine}


def _differing(names: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    def shown(name: str) -> str:
        if name in ("run", "inputs"):
            return name
        return f"{name} ({printable(before.get(name))} instead of {printable(now[name])})"

    return ", ".join(map(shown, names))


def _read_state(state: Path) -> Mapping[str, Any]:
    try:
        read = json.loads(state.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _cut(partial: Path, names: Sequence[str]) -> Begun:
    """Cut a file after the last of its first whole rows that are those of the images."""
    rows = unreadable = end = 0
    with partial.open("rb+") as file:
        for line in file:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            if not isinstance(row, dict) or rows >= len(names) or row.get("path") != names[rows]:
                break
            rows, end = rows + 1, end + len(line)
            unreadable += "error" in row
        file.truncate(end)
    return Begun(rows=rows, unreadable=unreadable)


def _finish(out: Path, layout: Layout) -> None:
    """Turn the rows into the file."""
    partial = _partial(out)
    if out.suffix == ".jsonl":
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.rename(out)
    else:
        write = write_csv if out.suffix == ".csv" else write_parquet
        with replacing(out) as beside, partial.open("rb") as lines:
            write(map(json.loads, lines), layout, beside)
        partial.unlink()
    _state(out).unlink(missing_ok=True)
