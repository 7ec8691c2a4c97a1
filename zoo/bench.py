"""Prediction and training speed of a backbone, and the share of the machine's peak it reaches."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo import allocator, plugins
from zoo import weights as zoo_weights
from zoo.backbone import Backbone
from zoo.errors import TrainingError
from zoo.events import ignore
from zoo.machine.device import choose_device, choose_precision, place, place_images
from zoo.machine.memory import out_of_memory_as
from zoo.machine.speed import device_name, matmul_peak, synchronise
from zoo.models.build import build_from
from zoo.models.depth import depths
from zoo.models.freeze import train_mode
from zoo.models.fuse import fuse_batch_norms
from zoo.models.groups import parameter_groups
from zoo.models.optim import make_optimizer
from zoo.planning.checks import check_forward
from zoo.planning.inputs import as_asked
from zoo.recipe import Recipe
from zoo.tasks import SINGLE_LABEL
from zoo.training.flops import flops_per_image

Model = Callable[[Tensor], Any]
Step = Callable[[], object]

CLASSES = 10

#: Rounds in which measurements alternate, so that other load on the machine affects all of them.
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is measured, and on which machine.

    Peaks are in FLOP/s, and FLOP are those of an image, where a multiply-add counts as two. Of the
    batch norms, `folded` can be folded into convolutions.
    """

    device: str
    device_name: str
    threads: int
    torch: str
    allocator: str
    precision: str
    peak: float
    training_peak: float
    backbone: str
    height: int
    width: int
    parameters: int
    folded: int
    forward_flops: float
    training_flops: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured speed of one kind of step; None without compilation, or if that never pays."""

    what: str
    batch_size: int
    images_per_second: float
    flops_per_second: float
    share_of_peak: float
    first_call_seconds: float | None = None
    pays_after_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Networks to be measured: `model` and `folded` (batch norms) predict, `trainee` trains."""

    setup: Setup
    backbone: Backbone
    recipe: Recipe
    model: nn.Module
    folded: nn.Module
    trainee: nn.Module


def set_up(recipe: Recipe) -> Bench:
    """Build the recipe's backbone, with random weights, and measure the machine (0.5 s).

    Raises:
        ZooError: The backbone, the device or the image size is not available.
    """
    device = choose_device(recipe.device)
    precision = choose_precision(recipe.precision, device)
    backbone, preprocess = as_asked(plugins.get(recipe.backbone), recipe, ignore)
    model = build_from(backbone, CLASSES, zoo_weights.load(backbone, "none"))
    check_forward(model, backbone, preprocess, CLASSES)
    trainee = copy.deepcopy(model)
    train_mode(trainee, backbone, depths(trainee, backbone), frozen=0, batch_norm=recipe.batch_norm)
    height, width = preprocess.height_width
    images = torch.randn(2, preprocess.channels, height, width)
    forward_flops = flops_per_image(model, images)
    training_flops = flops_per_image(trainee, images, backward=True)
    model, trainee = place(model, device), place(trainee, device)
    fused = fuse_batch_norms(model, place_images(images, device))
    peak = training_peak = matmul_peak(device)
    if precision != "fp32":
        training_peak = matmul_peak(device, dtype=_DTYPES[precision])
    setup = Setup(
        device=device.type,
        device_name=device_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        allocator=allocator.state(),
        precision=precision,
        peak=peak,
        training_peak=training_peak,
        backbone=backbone.name,
        height=height,
        width=width,
        parameters=sum(p.numel() for p in model.parameters()),
        folded=fused.batch_norms,
        forward_flops=forward_flops,
        training_flops=training_flops,
    )
    return Bench(
        setup=setup,
        backbone=backbone,
        recipe=recipe,
        model=model,
        folded=fused.model,
        trainee=trainee,
    )


def measure(bench: Bench, batch_size: int, *, seconds: float, compiled: bool) -> list[Speed]:
    """Measure prediction, with and without folded batch norms, and training, in alternation.

    Raises:
        TrainingError: The device has too little memory, or torch.compile fails on this machine.
    """
    setup, device = bench.setup, torch.device(bench.setup.device)
    shape = (bench.backbone.preprocess.channels, setup.height, setup.width)
    first_calls = {}
    with out_of_memory_as(
        f"{device} has too little memory for a batch of {batch_size}",
        hint="try a smaller `batch_size` or `image_size`",
    ):
        images = place_images(torch.randn(batch_size, *shape), device)
        steps = {"forward": _forward(bench.model, images)}
        if setup.folded:
            steps["forward, batch norm folded"] = _forward(bench.folded, images)
        steps["training step"] = _training(bench, bench.trainee, images)
        fastest = list(steps)[-2:]
        for step in steps.values():
            step()
        if compiled:
            # Compile for each batch size from scratch, as if it were the only one.
            torch.compiler.reset()
            forward, training = (f"{name}, compiled" for name in fastest)
            steps[forward] = _forward(torch.compile(bench.folded, dynamic=False), images)
            steps[training] = _training(bench, torch.compile(bench.trainee, dynamic=False), images)
            first_calls = {name: _first_call(steps[name], device) for name in (forward, training)}
        rates = {name: batch_size / t for name, t in _times(steps, device, seconds).items()}
    speeds = []
    for name, rate in rates.items():
        trains = name.startswith("training")
        reached = rate * (setup.training_flops if trains else setup.forward_flops)
        saved = 0.0
        if name in first_calls:
            saved = 1 / rates[name.removesuffix(", compiled")] - 1 / rate
        speeds.append(
            Speed(
                what=name,
                batch_size=batch_size,
                images_per_second=rate,
                flops_per_second=reached,
                share_of_peak=reached / (setup.training_peak if trains else setup.peak),
                first_call_seconds=first_calls.get(name),
                pays_after_images=round(first_calls[name] / saved) if saved > 0 else None,
            )
        )
    return speeds


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _forward(model: Model, images: Tensor) -> Step:
    # Inference mode, as in predict_logits.
    return torch.inference_mode()(lambda: model(images))


def _training(bench: Bench, model: Model, images: Tensor) -> Step:
    recipe, setup = bench.recipe, bench.setup
    groups = parameter_groups(
        bench.trainee,
        bench.backbone,
        lr=recipe.lr,
        head_lr_mult=recipe.head_lr_mult,
        weight_decay=recipe.weight_decay,
    )
    optimizer = make_optimizer(
        recipe.optimizer, groups, momentum=recipe.momentum, options=recipe.optimizer_options
    )
    labels = torch.arange(len(images), device=images.device) % CLASSES
    mixed = setup.precision != "fp32"

    def step() -> None:
        with torch.autocast(setup.device, _DTYPES[setup.precision], enabled=mixed):
            outputs = model(images)
        each = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = torch.stack([SINGLE_LABEL.loss(o.float(), labels) for o in each]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _first_call(step: Step, device: torch.device) -> float:
    started = time.perf_counter()
    try:
        # Caches of an earlier run would hide the cost; torch warns that they are unused.
        no_caches = torch.compiler.config.patch(force_disable_caches=True)  # type: ignore[attr-defined]
        with no_caches, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise TrainingError(
            f"torch.compile fails here: {type(error).__name__}: {str(error).partition(chr(10))[0]}",
            hint="leave out `compile`",
        ) from error
    synchronise(device)
    return time.perf_counter() - started


def _times(steps: dict[str, Step], device: torch.device, seconds: float) -> dict[str, float]:
    """Return the median duration of each step, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS):
        for name, step in steps.items():
            end = time.perf_counter() + seconds / _ROUNDS
            while not times[name] or time.perf_counter() < end:
                synchronise(device)
                started = time.perf_counter()
                step()
                synchronise(device)
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in times.items()}
