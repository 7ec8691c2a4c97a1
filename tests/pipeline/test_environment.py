"""What a checkpoint says of the machine: shown, and no reason for a warning."""

import torch

from zoo.pipeline.compatibility import environment, warn_of_environment
from zoo.runs.checkpoint_file import Checkpoint


def notes(**changed):
    recorded = environment(torch.device("cpu")) | changed
    found = []
    warn_of_environment(Checkpoint(tensors={}, about={"environment": recorded}), found.append)
    return found


def test_another_machine_alone_is_no_reason_for_a_warning():
    assert {"zoo", "threads", "platform", "processor"} <= environment(torch.device("cpu")).keys()
    assert not notes()
    assert not notes(platform="Plan 9", processor="a 6502", accelerator="a Voodoo 2")


def test_another_version_is():
    (note,) = notes(torch="0.1")
    assert note.warning
