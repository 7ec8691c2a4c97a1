"""A machine that is lost: the launchers of the others go on from the last checkpoint."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed import TCPStore

import zoo
from tests.conftest import zoo_
from tests.pipeline.conftest import flags, rows, start
from zoo.machine import processes
from zoo.runs.checkpoint_file import read_checkpoint

#: As docs/scaling.md gives it, with shorter waiting.
CONF = "is_host=0,last_call_timeout=5,keep_alive_interval=2,keep_alive_max_attempt=3"


def agent(name, port, arguments):
    """A launcher of one process, as on a machine of its own; what it says goes to NAME.log."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1"]
    command += ["--max-restarts=3", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    command += ["--rdzv-id=run", f"--rdzv-conf={CONF}", "--local-addr=127.0.0.1"]
    with Path(f"{name}.log").open("w") as log:
        return subprocess.Popen(
            [*command, "-m", "zoo", "finetune", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"},
        )


def lose(process):
    """End a launcher and its processes at once, as if their machine were off."""
    lists = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [int(pid) for each in lists for pid in each.read_text().split()]
    process.kill()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def trained_by(processes):
    """Whether so many processes have saved a checkpoint after an epoch."""
    if not Path("run", "metrics.csv").is_file():
        return False
    about = read_checkpoint(Path("run")).about
    return about["processes"] == processes and len(about["rows"]) > 2


def until(true, *agents, seconds=900):
    end = time.monotonic() + seconds
    while not true():
        said = "\n".join(Path(f"{name}.log").read_text()[-3000:] for name in ("first", "second"))
        assert all(each.poll() is None for each in agents), said
        assert time.monotonic() < end, said
        time.sleep(0.2)


@pytest.mark.slow
def test_the_other_machine_goes_on_by_itself(split_photos):
    fields = start(train="finetune", epochs=60, lr=1e-4, batch_size=None, global_batch=8)
    fields |= {"data": split_photos, "out": "run", "resume": "auto", "patience": 0}
    arguments = [*flags(fields), "--no-interpolate", "--no-report"]
    # The store that launchers meet at outlives any of their machines.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    agents = {name: agent(name, store.port, arguments) for name in ("first", "second")}
    try:
        # A launcher that is late joins the other one, which starts its processes again.
        until(lambda: trained_by(2), *agents.values())
        # The one that speaks writes the run, and has the store of the processes.
        writer = max(agents, key=lambda name: Path(f"{name}.log").stat().st_size)
        lose(agents.pop(writer))
        lost = time.monotonic()
        ((name, left),) = agents.items()
        until(lambda: trained_by(1), left)
        took = time.monotonic() - lost
        assert left.wait(timeout=900) == 0, Path(f"{name}.log").read_text()
    finally:
        for each in agents.values():
            if each.poll() is None:
                lose(each)
    run = zoo.load("run")
    assert len(rows(run)) == 60
    assert any("1 process, were 2" in line for line in run.info.history)
    zoo_("verify", "run")
    assert took < 120 or os.getloadavg()[0] > os.cpu_count(), took


@pytest.mark.medium
def test_restarts_of_several_machines_need_a_store_of_their_own(split_photos, monkeypatch):
    launched = {"RANK": 1, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1}
    elastic = {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_MAX_RESTARTS": 3}
    processes._launched.cache_clear()
    for name, value in {**launched, **elastic}.items():
        monkeypatch.setenv(name, str(value))
    asked = flags({**start(), "data": split_photos, "out": "run", "resume": "auto"})
    result = zoo_("finetune", *asked, code=2)
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in result.stderr
    assert not Path("run").exists()
