"""Check everything that a run folder holds, without running or changing any of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from zoo.errors import RunError
from zoo.integrity.checkpoint import check_checkpoint, explained, said_by_checkpoint
from zoo.integrity.files import CHECKS, check_file
from zoo.integrity.finding import Finding, broken, closed, odd
from zoo.integrity.model import check_model
from zoo.integrity.untrusted import MOST_FILES, about
from zoo.io.files import expand, is_file
from zoo.runs.checkpoint_file import CHECKPOINT
from zoo.runs.write import MODEL, ModelInfo

#: How each folder that a run may hold is checked, if it is there: given its path and what the model
#: file says, if anything, the check gives a finding a file.
FOLDERS: dict[str, Callable[[Path, ModelInfo | None], list[Finding]]] = {
    CHECKPOINT: check_checkpoint,
}


def verify(path: str | Path) -> tuple[Finding, ...]:
    """Check a run: that each file is there, whole, and agrees with the others.

    model.safetensors is checked against the SHA-256s that it holds, of its tensors and of its
    header, and the other files against what it says. Files that zoo didn't write are named; those
    that could run code, and links that lead out of the folder, are wrong.

    Args:
        path: A run folder, or a model.safetensors alone.

    Raises:
        RunError: There is neither, or it can't be looked at.
    """
    path = expand(path)
    if is_file(path):
        return (check_model(path)[0],)
    try:
        if not path.is_dir():
            raise RunError(f"no run at {path}: there is no such folder or file")
        others = list(itertools.islice(path.iterdir(), MOST_FILES))
    except OSError as error:
        raise RunError(f"can't look into {path}: {error.strerror}") from error
    file = path / MODEL
    found, info = (broken(file), None) if odd(path, file) else check_model(file)
    findings = [found, *(check_file(path, name, info) for name in CHECKS)]
    wrong = any(finding.state == "wrong" for finding in findings)
    # A checkpoint may be large: it is asked only where there is something to explain.
    if wrong and (said := said_by_checkpoint(path)) is not None:
        findings = [explained(finding, path, said) for finding in findings]
    looked_at = itertools.count(1)
    for other in sorted(p for p in others if p.name not in (MODEL, *CHECKS)):
        findings += _other(path, other, info, looked_at)
    if next(looked_at) > MOST_FILES:
        text = (
            f"more than {MOST_FILES} files and folders that are not zoo's; none more is looked at"
        )
        findings.append(Finding(file=".", state="wrong", detail=text))
    return tuple(findings)


def _other(
    run: Path, other: Path, info: ModelInfo | None, looked_at: Iterator[int]
) -> list[Finding]:
    """The findings on a folder of the run's, or on what is none of its own."""
    try:
        if other.name in FOLDERS and other.is_dir() and not other.is_symlink():
            return FOLDERS[other.name](other, info)
    except OSError as error:
        return [closed(other.name, error)]
    found = about(run, other, looked_at)
    return [Finding(file=f, state=s, detail=d) for f, s, d in found]
