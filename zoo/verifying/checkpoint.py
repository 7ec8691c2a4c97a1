"""What a run goes on from."""

from __future__ import annotations

import itertools
from pathlib import Path

from zoo.errors import RunError
from zoo.run.checkpoint import CHECKPOINT, DATA, LAST, LOCK, is_unfinished, read_checkpoint
from zoo.run.write import ModelInfo
from zoo.verifying.finding import Finding, closed, odd
from zoo.verifying.strangers import MOST_FILES, about


def check_checkpoint(folder: Path, info: ModelInfo | None) -> list[Finding]:
    """The finding on each file in `checkpoint/`."""
    findings = []
    try:
        for path in sorted(itertools.islice(folder.iterdir(), MOST_FILES)):
            findings += _check(folder.parent, path)
    except OSError as error:
        findings.append(closed(CHECKPOINT, error))
    return findings


def goes_on(run: Path) -> bool:
    """Whether its checkpoint can be read and says that the run is not complete."""
    try:
        if odd(run, run / CHECKPOINT / LAST):
            return False
        return read_checkpoint(run).about.get("complete") is False
    except RunError:
        return False


def not_yet(finding: Finding) -> Finding:
    """In place of the finding on a file that a run which goes on has not written."""
    detail = "not there yet: the run is not complete"
    return Finding(file=finding.file, state="unchecked", detail=detail)


def _check(run: Path, path: Path) -> list[Finding]:
    if path.name in (LAST, DATA):
        return [_checkpoint_file(run, path)]
    if is_unfinished(path):
        text = "left by a process that was killed; going on with the run takes it away"
        return [Finding(file=f"{CHECKPOINT}/{path.name}", state="unchecked", detail=text)]
    if path.name == LOCK and path.is_file() and not path.is_symlink():
        return []
    strangers = about(run, path, itertools.count(1))
    return [Finding(file=f, state=s, detail=d) for f, s, d in strangers]


def _checkpoint_file(run: Path, path: Path) -> Finding:
    name = f"{CHECKPOINT}/{path.name}"
    if why := odd(run, path):
        return Finding(file=name, state="wrong", detail=why)
    try:
        complete = read_checkpoint(run, path.name).about.get("complete")
    except RunError as error:
        return Finding(file=name, state="wrong", detail=str(error))
    detail = "the run is complete" if complete else "the run is not complete and can go on"
    if path.name == DATA:
        detail = "what the run learns from"
    return Finding(file=name, state="ok", detail=detail)
