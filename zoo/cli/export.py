"""`zoo export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import allocator_option, format_option, network_option
from zoo.cli.start import starting
from zoo.cli.tables import print_facts
from zoo.cli.words import echo, echo_json, human_size, with_flags

if TYPE_CHECKING:
    from zoo.export import ExportReport


@click.command("export", short_help="Write a run in another format, such as ONNX.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    metavar="FORMAT",
    help="onnx, openvino, torch-export, executorch, litert, or what plugins add; zoo plugins lists "
    "them.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write, which must not exist.  [default: named like the run, beside its folder]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled folder or table to compare on, as in zoo evaluate.  "
    "[default: the val images of the run]",
)
@network_option
@click.option(
    "--with-resize",
    is_flag=True,
    help="Include resizing and cropping: the file takes images of any size, (N, H, W, C).",
)
@click.option(
    "--probabilities",
    is_flag=True,
    help="Give calibrated probabilities instead of logits.",
)
@click.option("--half", is_flag=True, help="Store the weights as float16.")
@click.option(
    "--int8",
    is_flag=True,
    help="Quantise to 8 bits, per channel, calibrated on the run's train images.",
)
@click.option(
    "--opset",
    type=click.IntRange(min=1),
    help="Version of the format's operators.  [default: the exporter's]",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Share of the images whose predicted labels must be those of the run.  "
    "[default: 0.995; with --int8, one point less accuracy is accepted instead]",
)
@click.option(
    "--allow-difference",
    is_flag=True,
    help="Write the file even if it differs by more, and say so.",
)
@format_option("table", "json")
@allocator_option
def command(
    run: Path,
    to: str,
    out: Path | None,
    data: Path | None,
    allow_network: bool,
    with_resize: bool,
    probabilities: bool,
    half: bool,
    int8: bool,
    opset: int | None,
    min_agreement: float | None,
    allow_difference: bool,
    form: str,
    allocator_tuning: bool,
) -> None:
    """Write RUN, a run folder or its model.safetensors, in another format.

    The file maps images (N, C, H, W) uint8, usually RGB, resized and cropped, to logits; it
    includes the normalisation and, as metadata, the class names. It is loaded by the runtime of the
    format and compared with the run on the run's val images before it is put in its place;
    FILE.json and the model card of the run have the result. FILE.predict.py predicts with the file
    without zoo.

    \b
      zoo export runs/photos-resnet18 --to onnx
      zoo export runs/photos-resnet18 --to onnx --int8 --out small.onnx
      zoo export runs/photos-resnet18 --to torch-export --out model.pt2 --data photos
    """
    with starting(allocator_tuning=allocator_tuning):
        from zoo.export import ExportOptions, export
        from zoo.runs.read import load

    options = ExportOptions(
        opset=opset, half=half, int8=int8, with_resize=with_resize, probabilities=probabilities
    )
    report = export(
        load(run, device="cpu"),
        to,
        out,
        options=options,
        data=data,
        allow_network=allow_network,
        min_agreement=min_agreement,
        allow_difference=allow_difference,
    )
    for note in report.notes:
        echo(f"! {with_flags(note)}", err=True)
    if form == "json":
        echo_json(report)
    else:
        _print(report)


def _print(report: ExportReport) -> None:
    facts = [
        ("file", f"{report.file}, {human_size(report.bytes)}"),
        ("compared on", f"{report.source} ({report.images})"),
        ("same labels", f"{report.agreement:.2%}"),
        ("largest difference", f"{report.largest_difference:.3g}, of two outputs"),
    ]
    if report.accuracy is not None and report.accuracy_interval is not None:
        low, high = report.accuracy_interval
        found = f"{report.accuracy:.2%} ({low:.2%}-{high:.2%}), of the run"
        facts.append(("accuracy", f"{found} {report.run_accuracy:.2%}"))
    facts.append(
        (
            "latency",
            f"{report.latency_ms:,.1f} ms an image, of the run {report.run_latency_ms:,.1f}",
        )
    )
    speeds = f"{report.images_per_second:,.0f} images/s, of the run "
    speeds += f"{report.run_images_per_second:,.0f}, in batches of {report.batch_size}"
    facts.append(("speed", speeds))
    print_facts(facts)
