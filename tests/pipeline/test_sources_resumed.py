"""Runs from each kind of source: killed and resumed to the bit, evaluated, predicted from."""

import csv
import multiprocessing
import signal
from pathlib import Path

import pytest

import zoo
from tests.conftest import zoo_
from tests.data.sources import KINDS, write_source
from tests.pipeline.conftest import start
from tests.pipeline.crash import check_equal, check_whole, killed_run


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_from_a_source_is_killed_and_goes_on_to_the_same_weights(kind, tmp_path):
    data = write_source(kind, tmp_path)
    fields = {**start(), "train": "finetune", "epochs": 2, "checkpoint_every": 1, "workers": 0}
    undisturbed = zoo.finetune(data, out="undisturbed", **fields)
    home = str(Path("killed").absolute())
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=killed_run, args=(home, data, "run", fields, ("event", 4)))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    run = zoo.resume("run")
    check_equal(run, undisturbed)
    check_whole("run")
    assert run.evaluate().metrics == pytest.approx(undisturbed.evaluate().metrics)
    zoo_("predict", "run", data, "--out", "found.csv")
    with Path("found.csv").open() as lines:
        assert len(list(csv.DictReader(lines))) == 24
