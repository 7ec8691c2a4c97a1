"""Memory that ends: the same steps in smaller parts, said; where nothing helps, one clear error.

The networks here fail as a device does: with its very errors, once too many images come at a time.
"""

import gc
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

import zoo
from tests.conftest import IN_TWO, QUICK, write_plugin, zoo_
from tests.pipeline.conftest import check_same, flags, hear, state
from zoo.machine.memory import is_out_of_memory
from zoo.machine.processes import make_accelerator
from zoo.tasks import SINGLE_LABEL
from zoo.training.gradients import Objective, step_gradients

#: What torch and Python raise, word by word.
ERRORS = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a"),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 9663676416 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 16 TB."),
    "apple": RuntimeError(
        "MPS backend out of memory (MPS allocated: 17.99 GB, max allowed: 18 GB)"
    ),
    "library": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "kernels": RuntimeError("could not create a primitive"),
    "c++": RuntimeError("std::bad_alloc"),
    "python": MemoryError(),
    "unsupported": RuntimeError("could not create a primitive descriptor for a convolution"),
    "another": RuntimeError("mat1 and mat2 shapes cannot be multiplied (16x8 and 4x3)"),
}

#: Networks whose memory is as the environment says: images at a time in training and in eval mode,
#: where it ends (forward, backward) and with which error.
PLUGIN = """
import os
import weakref

import torch
from torch import nn

import zoo
from tests.training.test_micro_batches import ERRORS

#: Of the last attempt that failed.
held = []


def ends(images, variable):
    if images > int(os.environ.get(variable, "1000")):
        error = ERRORS[os.environ.get("ERROR", "gpu")]
        raise type(error)(*error.args)


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.images = len(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        ends(ctx.images, "BACKWARD_LIMIT")
        return grad


class Net(nn.Module):
    def __init__(self, classes, norm=nn.Identity, auxiliary=False, dropout=0.0):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 3), norm(8), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(8, classes)
        self.extra = nn.Linear(8, classes) if auxiliary else None

    def forward(self, x):
        if any(tensor() is not None for tensor in held):
            raise AssertionError("what failed is still held in memory")
        held.clear()
        features = self.stem(x)
        if not x.is_meta:  # That takes no memory.
            held.append(weakref.ref(features))
            ends(len(x), "LIMIT" if self.training else "EVAL_LIMIT")
            held.clear()
        features = Backward.apply(features).mean((2, 3))
        if self.training and self.extra is not None:
            return self.head(features), self.extra(features)
        return self.head(features)


@zoo.hookimpl
def zoo_backbones():
    for name, head, kinds in (
        ("plain", "head", {}),
        ("normed", "head", {"norm": nn.BatchNorm2d}),
        ("dropping", "head", {"norm": nn.BatchNorm2d, "dropout": 0.3}),
        ("auxiliary", zoo.Head(paths=("head", "extra"), aux=(0.4,)), {"auxiliary": True}),
    ):
        yield zoo.Backbone(
            name=name,
            build=lambda classes, pretrained, kinds=kinds: Net(classes or 1000, **kinds),
            head=head,
            preprocess=zoo.Preprocess(size=32),
            stages=("stem",),
        )
"""

#: Steps that leave the starting weights well behind, on batches that classes weigh unevenly.
FIELDS = {
    **QUICK,
    "optimizer": "sgd",
    "backbone": "limited/plain",
    "epochs": 2,
    "batch_size": 16,
    "lr": 0.05,
    "head_lr_mult": 2.0,
    "warmup_epochs": 0.0,
    "views": None,
    "class_weights": "balanced",
    "label_smoothing": 0.1,
}


@pytest.fixture
def limited(install):
    install("zoo-limited", "limited", "zoo_limited", PLUGIN)


@pytest.fixture
def uneven(photos, tmp_path):
    """18 photos to train on: 8 blue, 8 green and 2 red ones."""
    root = shutil.copytree(photos, tmp_path / "uneven")
    for n in range(7):
        (root / "red" / f"{n}.png").unlink()
    return root


def halvings(notes):
    """How many images at a time each note on training says."""
    return [note for note in notes if "ran out of memory in training" in note]


@pytest.mark.parametrize("error", sorted(set(ERRORS) - {"another", "unsupported"}))
def test_what_devices_and_libraries_say_is_understood(error):
    assert is_out_of_memory(ERRORS[error])


@pytest.mark.parametrize(
    ("backbone", "variable", "error", "sizes"),
    [
        ("plain", "LIMIT", "gpu", [8]),
        ("plain", "BACKWARD_LIMIT", "cpu", [8, 4]),
        ("plain", "LIMIT", "python", [8, 4, 2, 1]),
        ("auxiliary", "LIMIT", "cpu", [8, 4]),
    ],
)
@pytest.mark.medium
def test_steps_in_parts_lead_to_the_same_weights(
    limited, uneven, monkeypatch, backbone, variable, error, sizes
):
    fields = {**FIELDS, "backbone": f"limited/{backbone}"}
    whole, notes, _ = hear(uneven, "whole", **fields)
    assert not halvings(notes)
    monkeypatch.setenv(variable, str(sizes[-1]))
    monkeypatch.setenv("ERROR", error)
    parts, notes, _ = hear(uneven, "parts", **fields)
    check_same(parts, whole, atol=2e-6)
    assert [[int(n) for n in re.findall(r"\d+", note)[:2]] for note in halvings(notes)] == [
        list(pair) for pair in zip([16, *sizes], sizes, strict=False)
    ]


@pytest.mark.medium
def test_kernels_that_had_no_memory_once_are_left_alone(limited, uneven, monkeypatch):
    """oneDNN's fail ever after in that process, with whatever memory."""
    whole, *_ = hear(uneven, "whole", **FIELDS)
    monkeypatch.setenv("LIMIT", "4")
    monkeypatch.setenv("ERROR", "kernels")
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)  # And again after the test.
    parts, notes, _ = hear(uneven, "parts", **FIELDS)
    assert "oneDNN" in halvings(notes)[0]
    assert not torch.backends.mkldnn.enabled
    check_same(parts, whole, atol=2e-6)


def test_a_network_whose_statistics_train_is_said_to_see_fewer_images(
    limited, split_photos, monkeypatch
):
    fields = {**FIELDS, "backbone": "limited/normed", "batch_size": 8, "epochs": 1}
    monkeypatch.setenv("LIMIT", "4")
    run, notes, _ = hear(split_photos, "run", **fields)
    (note,) = halvings(notes)
    assert "batch-norm statistics" in note
    # Three steps in two parts each: what failed has left no trace.
    assert state(run)["stem.1.num_batches_tracked"] == 6


def test_an_attempt_that_failed_leaves_no_trace(limited, monkeypatch):
    """Who begins with smaller parts gets the same to the bit: so does a run that is resumed."""
    accelerator = make_accelerator(torch.device("cpu"), "fp32")
    batch, labels = torch.randn(13, 3, 32, 32), torch.arange(13) % 3

    def step(micro_batch):
        torch.manual_seed(0)
        model = zoo.build("limited/dropping", 3, weights="none").train()
        sums = step_gradients(
            model,
            Objective(
                outputs_of=model,
                loss_of=lambda logits, truth: (logits, cross_entropy(logits, truth)),
                criterion=SINGLE_LABEL,
            ),
            batch,
            labels,
            seed=7,
            micro_batch=micro_batch,
            accelerator=accelerator,
            listen=lambda _: None,
        )
        return sums, [p.grad for p in model.parameters()], list(model.buffers())

    monkeypatch.setenv("LIMIT", "4")
    found, gradients, buffers = step(None)
    assert found.micro_batch == 4
    given, same_gradients, same_buffers = step(4)
    assert (given.loss, given.correct) == (found.loss, found.correct)
    for one, other in zip([*gradients, *buffers], [*same_gradients, *same_buffers], strict=True):
        assert torch.equal(one, other)
    monkeypatch.setenv("LIMIT", "1000")
    whole, *_ = step(None)
    assert whole.micro_batch is None
    assert whole.loss != found.loss  # Statistics and what is dropped are a part's own.


@pytest.mark.parametrize(
    ("backbone", "limit", "named"),
    [
        ("plain", "0", ["1 image at a time", "--image-size"]),
        ("normed", "1", ["2 images", "--batch-norm frozen", "--image-size"]),
    ],
)
@pytest.mark.slow
def test_where_not_even_one_image_fits_the_best_so_far_is_kept(
    limited, split_photos, monkeypatch, backbone, limit, named
):
    monkeypatch.setenv("LIMIT", limit)
    given = {**FIELDS, "backbone": f"limited/{backbone}", "train": "probe+finetune"}
    command = ["finetune", "--data", str(split_photos), "--out", "run", *flags(given)]
    result = zoo_(*command, code=2)
    for name in ("cpu", *named, "run: the probe"):
        assert name in result.stderr
    assert "Traceback" not in result.output
    del result  # It holds the error, and that what it failed with.
    gc.collect()
    assert zoo.load("run").evaluate().accuracy == zoo.load("run").info.val_accuracy


@pytest.mark.parametrize("error", ["another", "unsupported"])
def test_an_error_of_another_kind_is_none_of_memory(limited, uneven, monkeypatch, error):
    monkeypatch.setenv("LIMIT", "8")
    monkeypatch.setenv("ERROR", error)
    with pytest.raises(RuntimeError, match=r"mat1 and mat2|primitive descriptor"):
        zoo.finetune(uneven, out="run", **FIELDS)


@pytest.mark.slow
def test_features_logits_and_predictions_are_computed_in_parts_too(
    limited, split_photos, monkeypatch
):
    fields = {**FIELDS, "train": "probe+finetune", "cache_size": 0.0}
    whole, *_ = hear(split_photos, "whole", **fields)
    probabilities = [p.probability for p in whole.predict(split_photos.rglob("*.png"))]
    monkeypatch.setenv("EVAL_LIMIT", "3")
    parts, notes, _ = hear(split_photos, "parts", **fields)
    check_same(parts, whole)
    for what in ("features", "val features", "logits"):
        assert any(f" {what};" in note and " 2 images" in note for note in notes)
    with pytest.warns(UserWarning, match=r"logits.* 2 "):
        again = [p.probability for p in whole.predict(split_photos.rglob("*.png"))]
    assert again == pytest.approx(probabilities, abs=1e-6)
    monkeypatch.setenv("EVAL_LIMIT", "0")
    result = zoo_("evaluate", "whole", code=2)
    assert "logits" in result.stderr
    assert "single image" in result.stderr


#: Prepares one of two processes for the worst: `LIMITED_RANK` has the limit, the other has none.
ONE_RANK = """
import os

from zoo.cli import main

if os.environ["RANK"] != os.environ["LIMITED_RANK"]:
    os.environ.pop("LIMIT", None), os.environ.pop("BACKWARD_LIMIT", None)
main()
"""


def launch(folder, data, out, **environment):
    """`zoo finetune` in two processes."""
    fields = {**FIELDS, "backbone": "limited/normed", "batch_norm": "frozen", "batch_size": 8}
    paths = [str(folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    root = str(Path(__file__).parents[2])
    command = [*IN_TWO, folder / "one_rank.py", "finetune", f"--data={data}", f"--out={out}"]
    return subprocess.run(
        [*command, *flags(fields)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, root]), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


#: A process that may take hardly more memory once training starts, in address space.
CONFINED = """
import resource
import sys

import jinja2
import matplotlib.figure
import pyarrow.parquet
import scipy.stats
import sklearn.metrics
import torch

import zoo
from zoo.events import Note
from zoo.planning import Plan

torch.set_num_threads(1)
data, out, megabytes, batch_size = sys.argv[1:]


def listen(event):
    if isinstance(event, Plan):
        pages = int(open("/proc/self/statm").read().split()[0])
        most = pages * resource.getpagesize() + int(megabytes) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    elif isinstance(event, Note):
        print(event.text)


zoo.finetune(
    data,
    out=out,
    listen=listen,
    backbone="timm/test_efficientnet",
    weights="none",
    batch_norm="frozen",
    image_size=512,
    epochs=1,
    batch_size=int(batch_size),
    workers=0,
    cache_size=0.0,
    device="cpu",
)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit of address space")
def test_a_cpu_whose_memory_ends_goes_on(photos):
    def confined(out, megabytes):
        command = [sys.executable, "-c", CONFINED, str(photos), out, str(megabytes), "24"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return halvings(done.stdout.splitlines())

    assert confined("whole", 16_000) == []
    assert confined("parts", 450)
    check_same(read("parts"), read("whole"), atol=1e-4)


@pytest.mark.slow
def test_one_of_two_processes_may_run_out_alone(split_photos, tmp_path):
    write_plugin(tmp_path, "zoo-limited", "limited", "zoo_limited", PLUGIN)
    Path(tmp_path, "one_rank.py").write_text(ONE_RANK)
    whole = launch(tmp_path, split_photos, "whole", LIMITED_RANK="none")
    assert whole.returncode == 0, whole.stderr
    for rank in ("0", "1"):
        parts = launch(tmp_path, split_photos, rank, LIMITED_RANK=rank, LIMIT="4")
        assert parts.returncode == 0, parts.stderr
        assert parts.stderr.count("ran out of memory in training on 8 images at a time") == 1
        check_same(read(rank), read("whole"), atol=2e-6)
    # What both have begun can't be begun again by one.
    failed = launch(tmp_path, split_photos, "failed", LIMITED_RANK="1", BACKWARD_LIMIT="4")
    assert failed.returncode != 0
    assert "ran out of memory while processes averaged their gradients" in failed.stderr


def read(out):
    """A run whose plugin this process has not."""
    return SimpleNamespace(path=Path(out))
