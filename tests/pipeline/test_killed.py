"""A run that is killed with SIGKILL again and again comes to the same weights, to the bit."""

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import timm
from timm.models import save_for_hf

import zoo
from tests.pipeline.conftest import start
from tests.pipeline.crash import check_equal, check_whole, killed_run

KINDS = {
    "full": {"train": "finetune", "epochs": 2, "optimizer": "adamw"},
    "probe and unfrozen": {
        "train": "probe+finetune",
        "freeze": 4,
        "unfreeze_epoch": 2,
        "epochs": 2,
        "views": 2,
    },
    "cached activations": {"train": "finetune", "freeze": 4, "epochs": 2},
    "of a checkpoint": {"train": "probe+finetune", "epochs": 2, "backbone": "local-dir:checkpoint"},
    "lamb, augmented repeatedly": {
        "train": "finetune",
        "epochs": 2,
        "optimizer": "lamb",
        "augment": "rand-augment",
        "repeated_augmentation": 2,
        "batch_size": 4,
        "grad_accumulation": 2,
    },
    "adapted": {"train": "finetune", "freeze": 4, "epochs": 2, "lora_rank": 2, "lr": 0.01},
}

#: What a run does on its way, and how often at least: it is killed just before one of those.
WRITES = {"fsync": 11, "rename": 11, "unlink": 1, "tensors": 6, "half": 6, "event": 6}


@pytest.fixture(scope="module")
def begin():
    """Runs a process that has zoo imported already; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.pipeline.crash", "zoo.pipeline.finetune", "zoo_timm", "timm"]
    )

    def begin(*args, kill_after=None):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=killed_run, args=(*args, sender))
        process.start()
        sender.close()
        if kill_after is not None:
            receiver.poll(60)
            time.sleep(kill_after)
            process.kill()
        process.join(120)
        code = process.exitcode
        process.kill()
        return code

    return begin


def killed_again_and_again(begin, photos, kind, times, seed):
    """Kill a run so many times, at writes and at random moments; let one go on to the end."""
    fields = {**start(), **KINDS[kind], "checkpoint_every": 1}
    if fields["backbone"].startswith("local-dir:"):
        model = timm.create_model("test_resnet", num_classes=12)
        save_for_hf(model, "checkpoint", safe_serialization=True)
        del fields["weights"]
    undisturbed = zoo.finetune(photos, out="undisturbed", **fields)
    home = str(Path("killed").absolute())
    draw = random.Random(seed)
    killed, rounds = 0, 0
    while killed < times:
        rounds += 1
        run = f"run{rounds}"
        while True:
            kill_after = None
            at = ("nothing", 0)
            if draw.random() < 0.25:
                kill_after = draw.uniform(0, 0.4)
            else:
                what = draw.choice(list(WRITES))
                at = (what, draw.randint(1, WRITES[what]))
            code = begin(home, photos, run, fields, at, kill_after=kill_after)
            assert code in (0, -signal.SIGKILL)
            if code == 0:
                break
            killed += 1
        check_equal(zoo.load(run), undisturbed)
        check_whole(run)
        for name in ("model.safetensors", "predictions.parquet"):
            assert Path(run, name).read_bytes() == Path("undisturbed", name).read_bytes(), name
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_a_dozen_times_goes_on_to_the_same_weights(begin, photos, kind, seed):
    assert killed_again_and_again(begin, photos, kind, 12, seed=10 + seed) >= 12
