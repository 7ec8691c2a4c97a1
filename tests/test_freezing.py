"""Freezing, unfreezing and layer decay through the whole path: what the run's file then holds."""

import csv
import dataclasses
import hashlib
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo
from tests.conftest import IN_TWO, QUICK, TINY, validation, zoo_
from zoo import plugins
from zoo.errors import PluginError, RecipeError
from zoo.events import EpochEnd, Note
from zoo.models.depth import depths
from zoo.planning import prepare
from zoo.recipe import dump_recipe, make_recipe
from zoo.runs.write import tensors_sha256
from zoo.weights import read_state_dict

#: Rates that move everything that trains at all, and batch norm that would move if it could.
MOVING = {
    "train": "finetune",
    "lr": 0.01,
    "head_lr_mult": 1.0,
    "warmup_epochs": 0.0,
    "batch_norm": "train",
}


def start(name: str) -> tuple[dict, dict]:
    """(fields of a run from random weights in a file, those weights)."""
    torch.manual_seed(0)
    state = {k: v.clone() for k, v in zoo.build(name, 3, weights="none").state_dict().items()}
    save_file(state, "start.safetensors")
    size = None if plugins.get(name).preprocess.fixed_size else 64
    return {
        **QUICK,
        **MOVING,
        "batch_size": 12,
        "backbone": name,
        "weights": "start.safetensors",
        "image_size": size,
    }, state


def layers_of(name: str):
    return depths(zoo.build(name, 3, weights="none"), plugins.get(name))


def digests(state: dict) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()
        for name, tensor in state.items()
    }


def moved(before: dict, after: dict) -> set[str]:
    old, new = digests(before), digests(after)
    return {name for name in old if old[name] != new[name]}


def moved_depths(before: dict, after: dict, layers) -> set[int]:
    return {layers.of[name] for name in moved(before, after) if name in layers.of}


@pytest.fixture
def each_epoch(monkeypatch):
    """Run and hear: what is kept after each epoch, because each is said to be the best so far."""

    def train(data, **fields):
        script = iter(validation(accuracy / 100) for accuracy in range(1, 100))
        monkeypatch.setattr("zoo.training.train.validate", lambda *args: next(script))
        kept, notes = [], []

        def listen(event):
            if isinstance(event, EpochEnd):
                kept.append(read_state_dict(Path("run/model.safetensors")))
            elif isinstance(event, Note):
                notes.append(event.text)

        zoo.finetune(data, out="run", listen=listen, **fields)
        return kept, notes

    return train


@pytest.mark.medium
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("torchvision/resnet18", marks=pytest.mark.slow),
        pytest.param("torchvision/swin_t", marks=pytest.mark.slow),
        TINY,
        "timm/test_vit",
    ],
)
def test_frozen_is_proven_byte_by_byte(name, photos):
    """Batch norm, dropout, stochastic depth, layer norm: parameters and buffers alike."""
    fields, before = start(name)
    layers = layers_of(name)
    half = len(layers) // 2
    for freeze, frozen in (("backbone", len(layers)), (half, half)):
        run = zoo.finetune(photos, out=f"run-{freeze}", **fields, freeze=freeze)
        after = read_state_dict(run.path / "model.safetensors")
        still = {n: t for n, t in before.items() if n in layers.of and layers.of[n] < frozen}
        assert still
        assert tensors_sha256(still) == tensors_sha256({n: after[n] for n in still})
        assert moved_depths(before, after, layers) == set(range(frozen, len(layers)))
        assert any(n not in layers.of for n in moved(before, after))


@pytest.mark.slow
def test_a_freeze_goes_up_to_and_including_its_stage(photos):
    fields, before = start("torchvision/resnet18")
    run = zoo.finetune(photos, out="run", **fields, freeze="layer2")
    changed = moved(before, read_state_dict(run.path / "model.safetensors"))
    assert {name.partition(".")[0] for name in changed} == {"layer3", "layer4", "fc"}
    assert "layer3.0.bn1.running_mean" in changed


def test_unfreezing_moves_group_after_group_each_from_its_epoch_on(photos, each_epoch):
    fields, before = start("timm/test_resnet")
    fields |= {"epochs": 4, "freeze": "layer4", "unfreeze_epoch": (2, 4)}
    kept, notes = each_epoch(photos, **fields)
    layers = layers_of("timm/test_resnet")
    states = [before, *kept]
    steps = [moved_depths(a, b, layers) for a, b in pairwise(states)]
    everything = set(range(len(layers)))
    lower = set(range(len(layers) // 2))
    assert steps == [set(), everything - lower, everything - lower, everything]
    lowest, highest = layers.span(0, len(lower) - 1), layers.span(len(lower), len(layers) - 1)
    assert [note for note in notes if note.startswith("epoch")] == [
        f"epoch 2: {highest} trains from now on",
        f"epoch 4: {lowest} trains from now on",
    ]


@pytest.mark.medium
def test_one_unfreeze_epoch_lets_all_train_and_the_metrics_say_when(photos, each_epoch):
    fields, before = start(TINY)
    fields |= {"epochs": 3, "freeze": "backbone", "unfreeze_epoch": 3, "schedule": "constant"}
    kept, notes = each_epoch(photos, **fields)
    layers = layers_of(TINY)
    assert moved_depths(before, kept[1], layers) == set()
    assert moved_depths(kept[1], kept[2], layers) == set(range(len(layers)))
    assert "epoch 3: backbone trains from now on" in notes
    rows = list(csv.DictReader(Path("run/metrics.csv").read_text().splitlines()))
    assert [float(row["lr_backbone"]) for row in rows] == [0.0, 0.0, 0.01]
    assert [float(row["lr_head"]) for row in rows] == [0.01, 0.01, 0.01]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        ("sgd", "cosine"),
        ("adamw", "constant"),
        pytest.param("sgd", "constant", marks=pytest.mark.slow),
        pytest.param("adamw", "cosine", marks=pytest.mark.slow),
    ],
)
def test_layer_decay_shortens_the_steps_of_each_depth_by_its_factor(photos, optimizer, schedule):
    """One step from the same weights, with and without."""
    fields, before = start("timm/test_vit")
    fields |= {"batch_size": 24, "momentum": 0.0, "weight_decay": 0.0, "clip_grad": 0.0}
    fields |= {"optimizer": optimizer, "schedule": schedule}
    layers = layers_of("timm/test_vit")
    steps = []
    for layer_decay in (1.0, 0.5):
        run = zoo.finetune(photos, out=f"run-{layer_decay}", **fields, layer_decay=layer_decay)
        after = read_state_dict(run.path / "model.safetensors")
        steps.append({name: (after[name] - before[name]).norm() for name in layers.of})
        row = next(csv.DictReader((run.path / "metrics.csv").read_text().splitlines()))
        assert float(row["lr_backbone"]) == 0.01
    for name, depth in layers.of.items():
        if name.endswith("weight"):
            factor = float(steps[1][name] / steps[0][name])
            assert factor == pytest.approx(0.5 ** (len(layers) - 1 - depth), rel=0.02), name


@pytest.mark.slow
def test_a_run_that_unfreezes_runs_again_from_its_recipe_to_the_same_weights(photos):
    fields = {**QUICK, "epochs": 3, "freeze": "backbone", "unfreeze_epoch": [2, 3]}
    first = zoo.finetune(photos, out="first", **fields, layer_decay=0.7, wd_on_norms=True)
    again = zoo.finetune(recipe="first/recipe.toml", out="again")
    assert again.info.recipe == first.info.recipe
    assert again.info.recipe.unfreeze_epoch == (2, 3)
    states = [read_state_dict(Path(run, "model.safetensors")) for run in ("first", "again")]
    assert tensors_sha256(states[0]) == tensors_sha256(states[1])


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"freeze": "layr2"}, RecipeError, "'layr2'.* layer2,"),
        ({"freeze": 99}, RecipeError, r"freeze = 99: .* \d+ depths"),
        ({"freeze": "backbone", "layer_decay": 0.9}, RecipeError, "layer_decay = 0.9"),
        ({"freeze": "layer4.0", "layer_decay": 0.9}, RecipeError, "layer_decay = 0.9"),
        ({"freeze": 1, "unfreeze_epoch": [2, 3], "epochs": 3}, RecipeError, "2 epochs"),
    ],
)
def test_what_cannot_be_is_refused_before_training(photos, fields, kind, message):
    given = {**QUICK, "backbone": "torchvision/resnet18", **fields}
    with pytest.raises(kind, match=message):
        zoo.finetune(photos, out="run", **given)
    assert not Path("run").exists()


def test_layer_decay_goes_with_a_backbone_that_is_frozen_for_a_while(photos):
    fields = {**QUICK, "epochs": 2, "freeze": "backbone", "unfreeze_epoch": 2, "layer_decay": 0.5}
    plan = prepare(make_recipe(data=photos, **fields)).plan
    assert {group.trains_from for group in plan.groups if group.part == "backbone"} == {2}
    assert len({group.lr for group in plan.groups}) > 3


def test_a_backbone_without_stages_can_only_be_frozen_as_a_whole(photos, monkeypatch):
    bare = dataclasses.replace(plugins.get(TINY), stages=())
    monkeypatch.setattr("zoo.plugins.get", lambda *_: bare)
    for fields in ({"freeze": 2}, {"freeze": "blocks.0"}, {"layer_decay": 0.9}):
        with pytest.raises(PluginError, match=f"backbone {TINY} .*stages"):
            zoo.finetune(photos, out="run", **QUICK, **fields)
    zoo.finetune(photos, out="run", **{**QUICK, "freeze": "backbone"})


@pytest.mark.medium
def test_freezing_is_told_by_flags(photos):
    given = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items() if k != "epochs"]
    command = ["finetune", "--data", str(photos), "--out", "run", *given, "--epochs=3"]
    result = zoo_(*command, "--freeze", "blocks.0", "--unfreeze-epoch", "x", code=2)
    assert "--unfreeze-epoch" in result.output
    assert "'x'" in result.output
    result = zoo_(*command, "--freeze", "blocs", "--unfreeze-epoch", "2", code=2)
    assert "freeze = 'blocs'" in result.stderr
    assert "Traceback" not in result.output
    result = zoo_(*command, "--freeze", "2", "--unfreeze-epoch", "2,3")
    assert "epoch 3: " in result.stdout
    text = Path("run/recipe.toml").read_text()
    assert {"freeze = 2  # given", "unfreeze_epoch = [2, 3]  # given"} <= set(text.splitlines())


def plan_table(photos, *flags: str) -> list[list[str]]:
    given = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items() if k != "backbone"]
    args = ["finetune", "--data", str(photos), "--dry-run", *given, *flags]
    result = zoo_(*args)
    lines = result.stdout.partition("\ngroup")[2].partition("\n\n")[0].splitlines()[1:]
    return [re.split(r"  +", line.strip()) for line in lines]


@pytest.mark.slow
def test_the_plan_shows_what_trains_from_when_and_what_does_not_decay(photos):
    flags = ["--backbone=torchvision/resnet18", "--lr=0.01", "--head-lr-mult=10"]
    model = zoo.build("torchvision/resnet18", 3, weights="none")
    of_one_dimension = sum(
        p.numel() for n, p in model.named_parameters() if p.ndim == 1 and not n.startswith("fc")
    )
    assert plan_table(photos, *flags, "--weight-decay=0.02") == [
        ["backbone", "11,176,512", "0.01", "0.02", f"{of_one_dimension:,}", "yes"],
        ["head", "1,539", "0.1", "0.02", "3", "yes"],
    ]
    assert [row[4] for row in plan_table(photos, *flags, "--wd-on-norms")] == ["0", "0"]
    frozen = plan_table(photos, *flags, "--freeze=layer2", "--layer-decay=0.5")
    assert [(row[0], *row[2:]) for row in frozen[:-1]] == [
        (f"{layers_of('torchvision/resnet18').label(0)} .. layer2.1", "-", "-", "-", "no (frozen)"),
        ("layer3.0", "0.00125", "0.05", "1,536", "yes"),
        ("layer3.1", "0.0025", "0.05", "1,024", "yes"),
        ("layer4.0", "0.005", "0.05", "3,072", "yes"),
        ("layer4.1", "0.01", "0.05", "2,048", "yes"),
    ]
    later = plan_table(photos, *flags, "--freeze=layer3", "--unfreeze-epoch=2,4", "--epochs=4")
    assert [row[5] for row in later] == ["from epoch 4", "from epoch 2", "yes", "yes"]


def test_the_plan_of_a_deep_network_is_short(photos):
    flags = ["--backbone=timm/vit_tiny_patch16_224", "--image-size=224", "--layer-decay=0.75"]
    table = plan_table(photos, *flags)
    assert len(table) < 12
    model = zoo.build("timm/vit_tiny_patch16_224", 3, weights="none")
    shown = sum(int(row[1].replace(",", "")) for row in table)
    assert shown == sum(p.numel() for p in model.parameters())
    middle = next(row for row in table if ".." in row[2])
    first, last = map(float, middle[2].split(" .. "))
    assert first < last


LAUNCHED = """
import dataclasses, os, sys
import zoo
import zoo.pipeline.phases
from zoo.runs.write import tensors_sha256

train = zoo.pipeline.phases.train

def watched(setup, state, control, resumed):
    def note(snapshot, end):
        if end is not None:
            name = f"epoch{end.epoch}-rank{os.environ['RANK']}.txt"
            with open(name, "w") as file:
                for key, value in snapshot.model.items():
                    file.write(f"{key} {tensors_sha256({key: value})}\\n")
        control.save(snapshot, end)
    train(setup, state, dataclasses.replace(control, save=note), resumed)

zoo.pipeline.phases.train = watched
zoo.finetune(sys.argv[1], out="run", recipe="launched.toml")
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_processes_unfreeze_together(photos, precision):
    """Of what unfreezes, too, the gradients are averaged: both end each epoch with one model."""
    fields, _ = start(TINY)
    fields |= {"epochs": 3, "freeze": "backbone", "unfreeze_epoch": (2, 3), "precision": precision}
    # Each process would keep batch-norm statistics of its own half of the photos.
    fields["batch_norm"] = "frozen"
    Path("launched.toml").write_text(dump_recipe(make_recipe(**fields)))
    Path("launched.py").write_text(LAUNCHED)
    done = subprocess.run([*IN_TWO, "launched.py", str(photos)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    states = [
        dict(line.split() for line in Path(f"epoch{epoch}-rank{rank}.txt").read_text().splitlines())
        for epoch in (1, 2, 3)
        for rank in (0, 1)
    ]
    assert states[0::2] == states[1::2]
    layers = layers_of(TINY)
    first, second, third = states[0::2]
    upper = {layers.of[n] for n in first if first[n] != second[n] and n in layers.of}
    everything = {layers.of[n] for n in first if second[n] != third[n] and n in layers.of}
    assert upper == set(range(len(layers) // 2, len(layers)))
    assert everything == set(range(len(layers)))
