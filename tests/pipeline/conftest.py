"""Nets with batch norm, dropout and stochastic depth, weights to start from, what runs left."""

import csv
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo
from tests.conftest import QUICK, TINY
from zoo.events import Note, Progress
from zoo.weights import read_state_dict, tensors_sha256

#: A plugin with timm's tiny nets as people train them: with dropout and stochastic depth.
DROPS = """
import dataclasses
import functools

import zoo

NETS = ("test_efficientnet", "test_vit", "test_convnext")


@zoo.hookimpl
def zoo_backbones():
    import timm
    import zoo_timm

    for name in NETS:
        cfg = timm.get_pretrained_cfg(name)
        backbone = zoo_timm.declare(name, cfg, build=functools.partial(build, name), weights=None)
        preprocess = dataclasses.replace(backbone.preprocess, size=32)
        yield dataclasses.replace(backbone, preprocess=preprocess, resized=None)


def build(name, num_classes, pretrained):
    import timm

    size = {"img_size": 32} if name == "test_vit" else {}
    classes = {} if num_classes is None else {"num_classes": num_classes}
    return timm.create_model(name, drop_rate=0.3, drop_path_rate=0.3, **size, **classes)
"""

DROPPING = ["drops/test_efficientnet", "drops/test_vit", "drops/test_convnext"]


@pytest.fixture
def drops(install):
    install("zoo-drops", "drops", "zoo_drops", DROPS)


def start(name=TINY, seed=0, **fields):
    """Fields of a run from weights in a file; without `views` it sees no more than usual."""
    torch.manual_seed(seed)
    path = Path(f"start-{seed}.safetensors").absolute()
    save_file(
        {k: v.clone() for k, v in zoo.build(name, 3, weights="none").state_dict().items()}, path
    )
    return {
        **QUICK,
        "backbone": name,
        "weights": str(path),
        "warmup_epochs": 0.0,
        "views": None,
        **fields,
    }


def flags(fields):
    """The same for a command line."""
    given = {name: value for name, value in fields.items() if value is not None}
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]


def hear(data, out, **fields):
    """(the run, its notes, what was computed: how many by name)."""
    notes, filled = [], {}

    def listen(event):
        if isinstance(event, Note):
            notes.append(event.text)
        elif isinstance(event, Progress):
            filled[event.what, event.total] = event.done

    run = zoo.finetune(data, out=out, listen=listen, **fields)
    computed = Counter()
    for (what, _), done in filled.items():
        computed[what] += done
    return run, notes, computed


def state(run):
    return read_state_dict(Path(run.path, "model.safetensors"))


def sha256(run):
    return tensors_sha256(state(run))


def rows(run):
    """What metrics.csv says of each epoch, but for how long it took."""
    text = Path(run.path, "metrics.csv").read_text()
    slow = {"seconds", "images_per_second", "data_seconds"}
    return [
        {name: float(value) for name, value in row.items() if name not in slow}
        for row in csv.DictReader(text.splitlines())
    ]


def check_same(one, other, atol=1e-5):
    """The same losses, accuracies and rates in each epoch; in the end the same weights."""
    assert len(rows(one)) == len(rows(other))
    for row, expected in zip(rows(one), rows(other), strict=True):
        assert row == pytest.approx(expected, rel=0, abs=atol)
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=atol)
