"""Disks that are really full, or really read-only, in mid-run."""

import errno
import os
import shutil
from pathlib import Path

import pytest

import zoo
from tests.conftest import QUICK, zoo_
from tests.pipeline.conftest import flags
from tests.pipeline.crash import check_equal, check_whole
from tests.pipeline.faults import Disk, answering, begin, contents, end, standing_still

FIELDS = {**QUICK, "train": "finetune", "epochs": 12, "checkpoint_every": 1}

#: So many views that their activations are written in several parts.
CACHED = {**QUICK, "train": "finetune", "epochs": 2, "freeze": 4, "views": 30}

LOCK = Path("checkpoint/.lock")


@pytest.fixture
def disk(tmp_path):
    """32 MB: room for a run of the smallest backbone."""
    mounted = Disk(tmp_path / "disk", 32)
    yield mounted
    mounted.close()


def interrupted_by(disk, photos, fault):
    """What a run on the disk says on stderr that finds it at fault after its first epoch."""
    out = disk.path / "run"
    process = begin(disk.enter, "finetune", "--data", photos, "--out", out, *flags(FIELDS))
    run = disk.seen / "run"
    with standing_still(process, (run / "metrics.csv").exists):
        fault()
        before = contents(run)
    _, err = end(process, 2)
    # What is there is whole, and nothing half-written lies beside it.
    after = contents(run)
    assert after.keys() - {LOCK} == before.keys() - {LOCK}
    shutil.copytree(run, "copy")
    zoo_("verify", "copy")
    return err


def check_goes_on(disk, undisturbed):
    end(begin(disk.enter, "finetune", "--resume", disk.path / "run"), 0)
    run = shutil.copytree(disk.seen / "run", "resumed")
    check_equal(zoo.load(run), undisturbed)
    check_whole(run)


@pytest.mark.slow
@pytest.mark.parametrize("leaving", [0, 100_000])
def test_a_full_disk_ends_the_run_with_a_line_and_freed_it_goes_on_to_the_same(
    photos, disk, leaving
):
    undisturbed = zoo.finetune(photos, out="undisturbed", **FIELDS)
    error, kept, how = interrupted_by(disk, photos, lambda: disk.fill(leaving)).splitlines()
    run = disk.path / "run"
    last = run / "checkpoint" / "last.safetensors"
    assert error.endswith(f" {last}: {os.strerror(errno.ENOSPC)}")
    assert f"{run}: epoch 1" in kept
    assert how.endswith(f"zoo finetune --resume {run}")
    with answering(disk.enter) as answers:
        ((code, _, again),) = answers([["finetune", "--resume", run]])
    assert code == 2
    assert str(run) in again
    assert len(again.splitlines()) == 1
    disk.free()
    check_goes_on(disk, undisturbed)


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_ends_the_run_with_a_line(photos, disk):
    undisturbed = zoo.finetune(photos, out="undisturbed", **FIELDS)
    error, *_ = interrupted_by(disk, photos, disk.read_only).splitlines()
    run, new = disk.path / "run", disk.path / "new"
    last = run / "checkpoint" / "last.safetensors"
    assert error.endswith(f" {last}: {os.strerror(errno.EROFS)}")
    commands = [
        ["finetune", "--resume", run],
        ["finetune", "--data", photos, "--out", new, *flags(FIELDS)],
        ["verify", run],
        ["predict", run, photos / "red"],
    ]
    with answering(disk.enter) as answers:
        resumed, begun, *reading = answers(commands)
    assert resumed[0] == begun[0] == 2
    assert str(run) in resumed[2]
    assert str(new) in begun[2]
    assert [code for code, _, _ in reading] == [0, 0]
    disk.writable()
    check_goes_on(disk, undisturbed)


def of_caches(err):
    """The lines but for those that say how little a run of a second has learnt."""
    caveats = ("val image", "no better than")
    return [line for line in err.splitlines() if not any(doubt in line for doubt in caveats)]


@pytest.mark.slow
def test_a_cache_on_a_full_disk_is_given_up_with_a_line_and_changes_no_result(photos, disk):
    undisturbed = zoo.finetune(photos, out="undisturbed", **CACHED)
    env = {**os.environ, "ZOO_HOME": str(disk.path / "home")}

    def begun(out):
        command = ["finetune", "--data", photos, "--out", Path(out).absolute(), *flags(CACHED)]
        return begin(disk.enter, *command, env=env)

    def filling():
        caches = disk.seen.glob("home/cache/activations/*/records.bin")
        return any(records.stat().st_size for records in caches)

    process = begun("run")
    with standing_still(process, filling):
        disk.fill()
    _, err = end(process, 0)
    (line,) = of_caches(err)
    assert "activations" in line
    assert os.strerror(errno.ENOSPC) in line
    assert "`zoo cache clear`" in line
    check_equal(zoo.load("run"), undisturbed)
    disk.free()
    _, err = end(begun("again"), 0)
    assert not of_caches(err)
    check_equal(zoo.load("again"), undisturbed)
