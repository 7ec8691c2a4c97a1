"""The file of predictions: written as they are made, finished atomically, continued after a kill.

Rows are written to `.NAME.partial` beside the file, as JSON Lines, whatever its format. At the end,
this becomes the file, or is converted to it. `.NAME.partial.json` has what was asked for, which
must be the same when it is continued. A folder of files begins as `.NAME.partial` too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


#: How many rows there are already, and a function that writes the next one.
Appending = tuple[Begun, Callable[[str, Prediction | Unreadable], None]]


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
    out: Path,
    job: Job,
    names: Sequence[str],
    layout: Layout,
    *,
    rank: int = 0,
    processes: int = 1,
    resume: bool,
) -> Iterator[Appending]:
    """Write a file of predictions; when the context ends without an error, the file is complete.

    With an error, the rows that were written remain, and can be continued. Several processes write
    a share of the rows each, of which `join_shares` makes the file.

    Args:
        out: The file, which must not exist.
        job: What is asked for.
        names: Names of the images of this process, in order.
        layout: What rows have.
        rank: Number of this process, from 0.
        processes: Number of processes.
        resume: Continue the unfinished rows of this process, if there are any.

    Yields:
        How many rows there are already, and a function that writes the next one.

    Raises:
        RunError: The file exists or can't be written, another process writes it, there is an
            unfinished one and `resume` is not set, or it was begun with something else.
    """
    check_format(out)
    _check_new(out)
    share = share_of(out, rank, processes)
    rows = _partial(share)
    try:
        _check_folder(share)
        with _locked(rows):
            begun = _cut(rows, names) if _begin(share, job, resume=resume) else Begun()
            with rows.open("ab") as file:
                yield begun, lambda name, found: write_jsonl_row(as_row(name, found, layout), file)
            if processes == 1:
                _finish(out, [out], layout)
    except OSError as error:
        raise RunError(
            f"can't write {share}: {error.strerror or error}",
            hint=f"the rows so far are in {rows}; `resume` continues" if exists(rows) else None,
        ) from error


def join_shares(out: Path, processes: int, layout: Layout) -> None:
    """Join the rows that all processes have written into the file, and delete their files.

    Raises:
        RunError: The file can't be written.
    """
    shares = [share_of(out, rank, processes) for rank in range(processes)]
    if missing := [rank for rank, share in enumerate(shares) if not exists(_partial(share))]:
        raise RunError(
            f"the rows of process {missing[0]} are not in {out.parent}",
            hint="name a file in a folder that all processes see",
        )
    try:
        _finish(out, shares, layout)
    except OSError as error:
        raise RunError(
            f"can't write {out}: {error.strerror or error}", hint="`resume` continues"
        ) from error


def share_of(out: Path, rank: int, processes: int) -> Path:
    """Return the file of one of several processes, which is only ever an unfinished one.

    Of a single process, it is the file itself.
    """
    if processes == 1:
        return out
    return out.with_name(f"{out.stem}.{rank}-of-{processes}{out.suffix}")


@contextmanager
def writing_folder(out: Path, job: Job, *, resume: bool) -> Iterator[Path]:
    """Write a folder of files, which gets its name when the context ends without an error.

    With an error, the files that were written remain, and can be continued.

    Args:
        out: The folder, which must not exist.
        job: What is asked for.
        resume: Continue an unfinished folder, if there is one.

    Yields:
        The folder to write to, with the files of an unfinished one.

    Raises:
        RunError: As `writing`.
    """
    folder = _partial(out)
    try:
        _check_folder(out)
        with _locked(folder):
            _begin(out, job, resume=resume)
            folder.mkdir(exist_ok=True)
            try:
                yield folder
                folder.rename(out)
            finally:
                with suppress(OSError):
                    folder.rmdir()  # If it is empty, there is nothing to continue.
                if not exists(folder):
                    _state(out).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"can't write {out}: {error.strerror or error}",
            hint=f"the files so far are in {folder}; `resume` continues"
            if exists(folder)
            else None,
        ) from error


def _check_folder(out: Path) -> None:
    if not out.parent.is_dir():
        raise RunError(f"can't write {out}: there is no folder {out.parent}")


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


def _begin(out: Path, job: Job, *, resume: bool) -> bool:
    """Write what is asked for, or compare it with an earlier call; return whether there was one."""
    rows, state = _partial(out), _state(out)
    _check_new(out)
    if not os.path.lexists(rows):
        with replacing(state) as beside:
            beside.write_text(json.dumps(_content(job)), encoding="utf-8")
        return False
    if not resume:
        raise RunError(
            f"{rows} is an unfinished prediction",
            hint="`resume` continues it; to start again, delete it",
        )
    before, now = _read_state(state), _content(job)
    if differs := [name for name, value in now.items() if before.get(name) != value]:
        raise RunError(
            f"{rows} was begun with other {_differing(differs, before, now)}",
            hint="continue with the same, or delete it to start again",
        )
    return True


def _check_new(out: Path) -> None:
    if os.path.lexists(out):
        raise RunError(
            f"{out} exists already; zoo does not overwrite predictions",
            hint="delete it, or name another file",
        )


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


def _finish(out: Path, files: Sequence[Path], layout: Layout) -> None:
    """Turn the rows of one or several unfinished files into the file."""
    partials = [_partial(file) for file in files]
    if out.suffix == ".jsonl" and len(partials) == 1:
        with partials[0].open("rb+") as rows:
            os.fsync(rows.fileno())
        partials[0].rename(out)
    else:
        with replacing(out) as beside:
            _WRITERS[out.suffix](map(json.loads, _lines(partials)), layout, beside)
    for file in files:
        _partial(file).unlink(missing_ok=True)
        _state(file).unlink(missing_ok=True)


def _lines(files: Iterable[Path]) -> Iterator[bytes]:
    for each in files:
        with each.open("rb") as lines:
            yield from lines


def _write_jsonl(rows: Iterable[Mapping[str, Any]], layout: Layout, path: Path) -> None:
    with path.open("wb") as file:
        for row in rows:
            write_jsonl_row(row, file)


_WRITERS = {".jsonl": _write_jsonl, ".csv": write_csv, ".parquet": write_parquet}
