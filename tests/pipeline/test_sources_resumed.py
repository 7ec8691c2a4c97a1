"""Runs from each kind of source: killed and resumed to the bit, evaluated, predicted from."""

import csv
import multiprocessing
import signal
from pathlib import Path

import pytest

import zoo
from tests.conftest import zoo_
from tests.data.servers import BUCKET, s3_server, web_server
from tests.data.sources import KINDS, write_source
from tests.pipeline.conftest import start
from tests.pipeline.crash import check_equal, check_whole, killed_run


def check_source(data, *allowed):
    """A run from this data is killed, resumed to the bit, evaluated and predicted from."""
    fields = {**start(), "train": "finetune", "epochs": 2, "checkpoint_every": 1, "workers": 0}
    undisturbed = zoo.finetune(data, out="undisturbed", **fields)
    home = str(Path("killed").absolute())
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=killed_run, args=(home, data, "run", fields, ("event", 4)))
    process.start()
    process.join(900)
    assert process.exitcode == -signal.SIGKILL
    run = zoo.resume("run")
    check_equal(run, undisturbed)
    check_whole("run")
    assert run.evaluate().metrics == pytest.approx(undisturbed.evaluate().metrics)
    zoo_("predict", "run", data, "--out", "found.csv", *allowed)
    with Path("found.csv").open() as lines:
        assert len(list(csv.DictReader(lines))) == 24
    return undisturbed, fields


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_from_a_source_is_killed_and_goes_on_to_the_same_weights(kind, tmp_path):
    check_source(write_source(kind, tmp_path))


# Clients of S3 close their sockets when they are collected.
QUIET = (
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("folder", marks=QUIET), "zip", "tar", "jsonl"])
def test_a_run_from_an_address_is_killed_and_goes_on_to_the_same_weights(
    kind, tmp_path, monkeypatch
):
    if kind == "folder":
        write_source("zip", tmp_path)
        with s3_server(monkeypatch) as bucket:
            bucket.add(tmp_path / "photos", "photos")
            data = f"s3://{BUCKET}/photos"
            undisturbed, fields = check_source(data, "--allow-network")
            # Worker processes read from the network too.
            fields |= {"workers": 2, "cache_size": 0}
            monkeypatch.setenv("ZOO_REMOTE_CACHE", "0")
            check_equal(zoo.finetune(data, out="workers", **fields), undisturbed)
            local = zoo.finetune(tmp_path / "photos", out="local", **fields)
            check_equal(local, undisturbed)
        return
    name = Path(write_source(kind, tmp_path)).name
    with web_server() as web:
        web.add(tmp_path)
        check_source(f"{web.address}/{name}", "--allow-network")
