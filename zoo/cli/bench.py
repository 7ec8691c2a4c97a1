"""`zoo bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zoo.cli.options import allocator_option, complete_backbone, device_option, format_option
from zoo.cli.start import starting
from zoo.cli.tables import number, print_facts, print_table, text
from zoo.cli.words import echo, echo_json
from zoo.io.text import count
from zoo.recipe import make_recipe

if TYPE_CHECKING:
    from zoo.bench import Setup, Speed

#: Default batch sizes, by type of device.
BATCH_SIZES = {"cpu": (1, 8, 16, 32), "mps": (1, 16, 64), "cuda": (1, 32, 128, 256)}

#: Columns with minimum widths, because rows are printed batch by batch.
_COLUMNS = (
    text("measured"),
    number("batch"),
    number("images/s", least=9),
    number("GFLOP/s", least=9),
    number("of the peak"),
    text(),
)


@click.command("bench", short_help="Measure how fast a backbone predicts and trains here.")
@click.argument("name", metavar="BACKBONE", shell_complete=complete_backbone)
@click.option(
    "--image-size", type=int, help="Side of the input in pixels. Without it: the backbone's own."
)
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(1),
    multiple=True,
    help="Images at once; may be given several times.  [default: 1, 8, 16 and 32; more on a GPU]",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Of training, as in zoo finetune; prediction is in fp32.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    show_default=True,
    help="Time for each measurement.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Also measure with torch.compile; takes minutes longer.",
)
@format_option("text", "json")
@device_option
@allocator_option
def command(
    name: str,
    image_size: int | None,
    batch_sizes: tuple[int, ...],
    precision: str,
    seconds: float,
    compiled: bool,
    form: str,
    device: str,
    allocator_tuning: bool,
) -> None:
    """Measure how fast BACKBONE predicts and trains on this machine, with random weights.

    Speed is shown as images per second, as floating-point operations per second, and as a
    percentage of what this machine reaches when it multiplies matrices. Reading images is not
    measured: they are in memory. Training updates all parameters by SGD, with batch-norm statistics
    frozen.

    \b
      zoo bench resnet18
      zoo bench resnet18 --batch-size 16 --compile
      zoo bench timm/vit_tiny_patch16_224 --seconds 10 --format json
    """
    given = {"backbone": name, "image_size": image_size, "device": device, "precision": precision}
    recipe = make_recipe(None, weights="none", **given)
    with starting(allocator_tuning=allocator_tuning):
        import torch

        from zoo.bench import measure, set_up
        from zoo.machine.speed import peak_memory

    bench = set_up(recipe)
    setup = bench.setup
    if form == "text":
        _print_setup(setup)
    speeds: list[Speed] = []
    for batch_size in batch_sizes or BATCH_SIZES[setup.device]:
        measured = measure(bench, batch_size, seconds=seconds, compiled=compiled)
        speeds += measured
        if form == "text":
            print_table(_COLUMNS, map(_row, measured), header=len(speeds) == len(measured))
    memory = peak_memory(torch.device(setup.device))
    if form == "text":
        held = "not known" if memory is None else f"{memory / 1e9:.2f} GB, all of this together"
        echo(f"\npeak memory  {held}")
    else:
        echo_json({**vars(setup), "speeds": speeds, "peak_memory_bytes": memory})


def _print_setup(setup: Setup) -> None:
    threads = f", {setup.threads} threads" if setup.device == "cpu" else ""
    peak = f"{setup.peak / 1e9:,.0f} GFLOP/s in fp32"
    if setup.precision != "fp32":
        peak += f", {setup.training_peak / 1e9:,.0f} GFLOP/s in {setup.precision}"
    facts = (
        ("device", f"{setup.device}, {setup.device_name}{threads}, torch {setup.torch}"),
        ("allocator", setup.allocator),
        ("peak", f"{peak}, multiplying matrices"),
        ("backbone", f"{setup.backbone}, {count(setup.parameters, 'parameter')}, random weights"),
        ("input", f"{setup.height} x {setup.width} pixels, in memory"),
        ("prediction", f"{setup.forward_flops / 1e9:.3g} GFLOP an image, in fp32"),
        ("training", f"{setup.training_flops / 1e9:.3g} GFLOP an image, in {setup.precision}"),
        ("batch norm", f"{setup.folded} can be folded into convolutions"),
    )
    print_facts(facts)
    echo()


def _row(speed: Speed) -> tuple[str, ...]:
    return (
        speed.what,
        str(speed.batch_size),
        f"{speed.images_per_second:,.1f}",
        f"{speed.flops_per_second / 1e9:,.1f}",
        f"{speed.share_of_peak:.0%}",
        _cost(speed),
    )


def _cost(speed: Speed) -> str:
    if speed.first_call_seconds is None:
        return ""
    images = speed.pays_after_images
    pays = "never pays" if images is None else f"pays after {count(images, 'image')}"
    return f"first call {speed.first_call_seconds:.1f} s, {pays}"
