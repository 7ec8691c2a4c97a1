"""Checkpoints: whatever a stranger's says, going on with it is refused in a line, or right."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

import zoo
from tests.conftest import QUICK
from tests.fuzz.conftest import fuzz, run_cli, sizes
from tests.fuzz.strategies import HOSTILE, changed, mutated
from tests.pipeline.crash import Crash, crash_at
from tests.runs.forging import forge_checkpoint, say_the_same
from zoo.runs.checkpoint_file import read_checkpoint

LAST, DATA = "checkpoint/last.safetensors", "checkpoint/data.safetensors"


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


@sizes(500)
def test_checkpoints_with_changed_bytes_are_refused(examples, stopped):
    original = (stopped / LAST).read_bytes()
    end = 8 + int.from_bytes(original[:8], "little")
    heads = mutated(original[:end]).map(lambda head: head + original[end:])

    def check(content: bytes) -> None:
        (stopped / LAST).write_bytes(content)
        if not say_the_same(content, original):
            assert run_cli(["finetune", "--resume", stopped]).code == 2
            assert run_cli(["verify", stopped]).code == 2

    fuzz(check, heads, examples)


@sizes(300)
@pytest.mark.medium
def test_checkpoints_whose_sums_are_right_and_whose_contents_are_hostile(examples, stopped):
    """None trains here, which would take long."""
    checkpoint = read_checkpoint(stopped)
    about = dict(checkpoint.about)
    keys = st.sampled_from(sorted(about))

    def check(change: tuple[str, object]) -> None:
        key, value = change
        forge_checkpoint(stopped / LAST, checkpoint.tensors, {**about, key: value})
        run_cli(["finetune", "--resume", stopped, "--dry-run"])
        run_cli(["verify", stopped])

    strategy = keys.flatmap(lambda key: st.tuples(st.just(key), changed(about[key])))
    fuzz(check, strategy, examples)


FOREIGN = {
    "a parameter's state of another shape": ("optimizer/", lambda tensor: tensor.new_zeros(2, 3)),
    "the state of a parameter that is not there": ("optimizer/nowhere/step", torch.zeros),
    "a state without a parameter": ("optimizer/x", torch.zeros),
    "a weight of another shape": ("model/", lambda tensor: tensor.new_zeros(1, 2, 3)),
    "a weight that is not there": ("model/nowhere", torch.zeros),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_tensors_of_another_training_are_refused(stopped, what):
    checkpoint = read_checkpoint(stopped)
    place, change = FOREIGN[what]
    tensors = dict(checkpoint.tensors)
    name = next((n for n in tensors if n.startswith(place)), place)
    tensors[name] = change(tensors.get(name, 1))
    forge_checkpoint(stopped / LAST, tensors, checkpoint.about)
    said = f"the checkpoint is another model's: {name.removeprefix('model/')}"
    answer = run_cli(["finetune", "--resume", stopped])
    assert answer.code == 2
    assert said in answer.err


@sizes(150)
def test_hostile_notes_of_what_a_run_learns_from(examples, stopped):
    """Their bytes changed; or names, keys and counts of any content, with the right sums."""
    path = stopped / DATA
    original = path.read_bytes()

    def check(change: bytes | tuple[bytes, bytes, object]) -> None:
        if isinstance(change, bytes):
            path.write_bytes(change)
            same = say_the_same(change, original)
        else:
            names, keys, train = change
            given = {
                "names": torch.tensor(list(names), dtype=torch.uint8),
                "keys": torch.tensor(list(keys), dtype=torch.uint8),
            }
            forge_checkpoint(path, given, {"train": train})
            same = False
        if not same:
            assert run_cli(["finetune", "--resume", stopped]).code == 2
            run_cli(["verify", stopped])

    contents = st.tuples(st.binary(max_size=99), st.binary(max_size=99), HOSTILE)
    fuzz(check, mutated(original) | contents, examples)
