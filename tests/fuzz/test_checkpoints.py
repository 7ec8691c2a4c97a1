"""Checkpoints: whatever a stranger's says, going on with it is refused in a line, or right."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import strategies as st
from safetensors.torch import save_file

import zoo
from tests.conftest import QUICK
from tests.fuzz.conftest import fuzz, run_cli, sizes
from tests.fuzz.strategies import changed, mutated
from tests.stages.crash import Crash, crash_at
from zoo.run.checkpoint import _sha256, read_checkpoint

LAST = "checkpoint/last.safetensors"


@pytest.fixture(scope="session")
def interrupted(photos, tmp_path_factory) -> Path:
    """A run that crashed in its second epoch. Not to be changed."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    fields = {**QUICK, "train": "finetune", "epochs": 2, "checkpoint_every": 1}
    with suppress(Crash):
        zoo.finetune(photos, out=out, **fields, listen=crash_at(4))
    return out


@pytest.fixture
def stopped(interrupted, tmp_path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / "run"))


def forge(path, tensors, about) -> None:
    """As `write_checkpoint`, but that it is not read back, which refuses most of this."""
    text = json.dumps(about)
    details = {"zoo_checkpoint": "1", "about": text, "sha256": _sha256(tensors, text)}
    save_file(tensors, path, metadata=details)


@sizes(500)
def test_checkpoints_with_changed_bytes_are_refused(examples, stopped):
    original = (stopped / LAST).read_bytes()
    end = 8 + int.from_bytes(original[:8], "little")
    heads = mutated(original[:end]).map(lambda head: head + original[end:])

    def check(content: bytes) -> None:
        (stopped / LAST).write_bytes(content)
        if content != original:
            assert run_cli(["finetune", "--resume", stopped]).code == 2
            assert run_cli(["verify", stopped]).code == 2

    fuzz(check, heads, examples)


@sizes(300)
def test_checkpoints_whose_sums_are_right_and_whose_contents_are_hostile(examples, stopped):
    """None trains here, which would take long."""
    checkpoint = read_checkpoint(stopped)
    about = dict(checkpoint.about)
    keys = st.sampled_from(sorted(about))

    def check(change: tuple[str, object]) -> None:
        key, value = change
        forge(stopped / LAST, checkpoint.tensors, {**about, key: value})
        run_cli(["finetune", "--resume", stopped, "--dry-run"])

    strategy = keys.flatmap(lambda key: st.tuples(st.just(key), changed(about[key])))
    fuzz(check, strategy, examples)
