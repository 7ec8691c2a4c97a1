"""What a run goes on from, and what follows from it: files that were not written yet, or again."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo import plugins
from zoo.errors import PluginError, RecipeError, RunError, ZooError
from zoo.events import ignore
from zoo.integrity.finding import Finding, State, closed, odd
from zoo.integrity.model import build_without_memory
from zoo.integrity.untrusted import MOST_FILES, about
from zoo.io.parsing import MAX_JSON, MAX_TOML, parse_toml, read_bounded
from zoo.io.text import clip
from zoo.models.head import in_head
from zoo.pipeline.compatibility import read_data_keys, read_run
from zoo.planning.inputs import for_size
from zoo.recipe import checked_recipe
from zoo.runs.checkpoint_file import CHECKPOINT, DATA, LAST, LOCK, Checkpoint, is_unfinished
from zoo.runs.write import METRICS, RECIPE, ModelInfo, metrics_text
from zoo.training.snapshot import Snapshot, check_fits


def check_checkpoint(folder: Path, info: ModelInfo | None) -> list[Finding]:
    """The finding on each file in `checkpoint/`."""
    findings = []
    try:
        for path in sorted(itertools.islice(folder.iterdir(), MOST_FILES)):
            findings += _check(folder.parent, path)
    except OSError as error:
        findings.append(closed(CHECKPOINT, error))
    return findings


def said_by_checkpoint(run: Path) -> Mapping[str, Any] | None:
    """What the run's checkpoint says beside its tensors; None if it can't be believed."""
    try:
        return None if odd(run, run / CHECKPOINT / LAST) else read_run(run).about
    except RunError:
        return None


def explained(finding: Finding, run: Path, said: Mapping[str, Any]) -> Finding:
    """A finding, or what to think of it where the checkpoint tells why it is so.

    A checkpoint is written first, and the other files after it: a killed run may lack them, or have
    them as they were before. What it says of the recipe holds where it was resumed with another.

    Args:
        finding: On one of zoo's files beside `checkpoint/`.
        run: The run folder.
        said: By its checkpoint.
    """
    path = run / finding.file
    if finding.state != "wrong":
        return finding
    if not said["complete"] and not os.path.lexists(path):
        detail = "not there yet: the run is not complete"
        return Finding(file=finding.file, state="unchecked", detail=detail)
    if odd(run, path):
        return finding
    try:
        if finding.file == RECIPE:
            own = checked_recipe(parse_toml(read_bounded(path, MAX_TOML).decode()))
            if own == checked_recipe(said["recipe"]):
                detail = "as the run went on; the model was kept before it was told otherwise"
                return Finding(file=finding.file, state="ok", detail=detail)
        before = [] if said["complete"] else said["rows"][:-1]
        if finding.file == METRICS and before:
            own_text = read_bounded(path, MAX_JSON).decode()
            if own_text == metrics_text(before):
                detail = "the run was interrupted while it wrote; resume it"
                return Finding(file=finding.file, state="unchecked", detail=detail)
    except (OSError, ValueError, RecipeError):
        pass
    return finding


def _check(run: Path, path: Path) -> list[Finding]:
    if path.name in (LAST, DATA):
        return [_own(run, path)]
    if is_unfinished(path):
        text = "left by a process that was killed; going on with the run takes it away"
        return [Finding(file=f"{CHECKPOINT}/{path.name}", state="unchecked", detail=text)]
    if path.name == LOCK and path.is_file() and not path.is_symlink():
        return []
    found = about(run, path, itertools.count(1))
    return [Finding(file=f, state=s, detail=d) for f, s, d in found]


def _own(run: Path, path: Path) -> Finding:
    name = f"{CHECKPOINT}/{path.name}"
    if why := odd(run, path):
        return Finding(file=name, state="wrong", detail=why)
    try:
        state, detail = _data(run) if path.name == DATA else _last(run)
    except ZooError as error:
        return Finding(file=name, state="wrong", detail=clip(" ".join(str(error).split()), 400))
    return Finding(file=name, state=state, detail=detail)


def _data(run: Path) -> tuple[State, str]:
    train, val = read_data_keys(run)
    return "ok", f"what the run learns from: {len(train)} train images, {len(val)} val"


def _last(run: Path) -> tuple[State, str]:
    """Whether resuming could understand it, and has a network to put it into.

    Raises:
        ZooError: It could not, or has not.
    """
    checkpoint = read_run(run)
    if checkpoint.about["complete"]:
        return "ok", "the run is complete"
    detail = "the run is not complete and can go on"
    if not checkpoint.tensors:
        return "ok", detail
    try:
        _fits(run, checkpoint)
    except PluginError as error:
        return "unchecked", f"whether it fits its backbone is not known: {clip(str(error))}"
    return "ok", detail


def _fits(run: Path, checkpoint: Checkpoint) -> None:
    recipe = checked_recipe(checkpoint.about["recipe"])
    backbone, _ = for_size(plugins.get(recipe.backbone), recipe, ignore)
    train, _ = read_data_keys(run)
    classes = len({name.partition("/")[0] for name in train})
    snapshot = Snapshot.from_parts(checkpoint.tensors, checkpoint.about)
    heads = [t.shape for name, t in snapshot.model.items() if in_head(name, backbone.head_paths)]
    # Not every network can be built without memory for its head.
    if not any(classes in shape for shape in heads):
        raise RunError(f"the checkpoint has no head of {recipe.backbone} for {classes:,} classes")
    check_fits(snapshot, build_without_memory(backbone, classes))
