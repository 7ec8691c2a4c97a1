"""Folders that somebody may not read or write, from the start or from mid-run on."""

import re
import shutil
from pathlib import Path

import pytest

import zoo
from tests.conftest import QUICK, zoo_
from tests.pipeline.conftest import flags
from tests.pipeline.crash import Crash, check_equal, check_whole, crash_at
from tests.pipeline.faults import answering, begin, contents, end, standing_still, unprivileged

FIELDS = {**QUICK, "train": "finetune", "epochs": 12, "checkpoint_every": 1}

DENIED = "Permission denied"


@pytest.fixture(autouse=True)
def _removable():
    """Nothing is left that pytest can't take away."""
    yield
    for path in sorted(Path().rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)


@pytest.fixture(scope="module")
def answers():
    """What somebody without root's rights is answered."""
    with answering(unprivileged()) as answers:
        yield answers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "mode", "said", "again"),
    [
        ("run", 0o555, "run/config.json", "run"),
        ("run", 0, "run/checkpoint/last.safetensors", f"last.safetensors: {DENIED}"),
        (
            "run/checkpoint",
            0o555,
            "run/checkpoint/last.safetensors",
            f"last.safetensors: {DENIED}",
        ),
    ],
)
def test_permission_lost_in_mid_run_ends_it_with_a_line_and_given_back_it_comes_to_the_same(
    photos, answers, folder, mode, said, again
):
    undisturbed = zoo.finetune(photos, out="undisturbed", **FIELDS)
    process = begin(unprivileged(), "finetune", "--data", photos, "--out", "run", *flags(FIELDS))
    with standing_still(process, Path("run", "metrics.csv").exists):
        Path(folder).chmod(mode)
    _, err = end(process, 2)
    assert err.splitlines()[0].endswith(f" {said}: {DENIED}")
    assert err.splitlines()[-1].endswith("zoo finetune --resume run")
    ((code, _, err),) = answers([["finetune", "--resume", "run"]])
    assert code == 2
    assert again in err.splitlines()[0]
    Path(folder).chmod(0o755)
    zoo_("verify", "run")
    check_equal(zoo.resume("run"), undisturbed)
    check_whole("run")


@pytest.mark.slow
def test_a_folder_for_runs_that_is_closed_is_named_before_training(photos, answers):
    for name, mode in (("read", 0o555), ("closed", 0)):
        Path(name).mkdir()
        Path(name).chmod(mode)
    outs = ["read", "read/run", "read/deep/run", "closed/run"]
    commands = [["finetune", "--data", photos, *flags(FIELDS), "--out", out] for out in outs]
    found = answers(commands)
    said = [f"can't write the run folder {out}: no right to write in " for out in outs[:3]]
    said.append(f"can't read the run folder closed/run: {DENIED}")
    for (code, out, err), expected in zip(found, said, strict=True):
        assert code == 2
        assert err.startswith(f"Error: {expected}")
        assert len(err.splitlines()) == 1
        assert "epoch  " not in out


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "checkpoint"])
def test_a_run_that_can_not_be_looked_at_is_never_begun_anew_nor_a_traceback(
    photos, answers, place
):
    with pytest.raises(Crash):
        zoo.finetune(photos, out="run", **FIELDS, listen=crash_at(5))
    before = contents(Path("run"))
    modes = [0o555, 0o444, 0o333, 0o111, 0]
    commands = []
    for mode in modes:
        run = f"run{mode:o}"
        shutil.copytree("run", run)
        Path(run, place).chmod(mode)
        commands += [
            ["finetune", "--resume", run],
            ["finetune", "--resume", "auto", "--out", run, "--data", photos, *flags(FIELDS)],
            ["finetune", "--out", run, "--data", photos, *flags(FIELDS)],
            ["verify", run],
            ["predict", run, photos / "red"],
        ]
    found = answers(commands)
    for command, (code, out, err) in zip(commands, found, strict=True):
        assert code in (0, 2), (command, out, err)
        assert code == 2 or command[0] in ("verify", "predict"), (command, out, err)
        assert bool(err) == (code == 2), (command, out, err)
    verified = [
        (code, out + err)
        for command, (code, out, err) in zip(commands, found, strict=True)
        if command[0] == "verify"
    ]
    assert verified[0][0] == 0  # May be read and not written.
    for code, said in verified[1:]:
        assert code == 2
        assert DENIED in said or "is not readable" in said
    for mode in modes:
        Path(f"run{mode:o}", place).chmod(0o755)
        assert contents(Path(f"run{mode:o}")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o555, f"can't write to the cache in {{home}}/cache/activations/.*: {DENIED}"),
        (0, f"activations are not cached in {{home}}/cache/.*: it can't be used: {DENIED}"),
    ],
)
def test_a_cache_folder_that_is_closed_is_said_and_changes_no_result(photos, answers, mode, said):
    fields = {**QUICK, "train": "finetune", "epochs": 2, "freeze": 4, "views": 2}
    undisturbed = zoo.finetune(photos, out="undisturbed", **fields)
    home = Path("home").absolute()
    home.mkdir(mode=0o755)
    home.chmod(mode)
    command = ["finetune", "--data", photos, "--out", "run", *flags(fields)]
    ((code, out, err),) = answers([command], ZOO_HOME=str(home))
    assert code == 0
    assert re.search(said.format(home=home), out + err)
    check_equal(zoo.load("run"), undisturbed)
    assert not contents(home)


@pytest.mark.slow
def test_photos_that_may_not_be_read_are_named(photos, answers):
    for name in ("image", "class", "all"):
        shutil.copytree(photos, name)
    Path("image/red/3.png").chmod(0)
    Path("class/red").chmod(0)
    Path("all").chmod(0)
    commands = [
        [*command, "--data", name, *flags(QUICK), "--out", f"run-{name}-{len(command)}"]
        for name in ("image", "class", "all")
        for command in (["finetune"], ["finetune", "--strict"])
    ]
    left_out, strict, *closed = answers(commands)
    assert left_out[0] == 0
    assert f"image/red/3.png: {DENIED}" in left_out[2]
    assert "! 1 " in left_out[2]
    assert strict[0] == 2
    assert f"image/red/3.png: {DENIED}" in strict[2]
    expected = [f"Error: can't list {name}: {DENIED}\n" for name in ("class/red", "all")]
    assert [(code, err) for code, _, err in closed[::2]] == [(2, line) for line in expected]
    assert closed[1::2] == closed[::2]
