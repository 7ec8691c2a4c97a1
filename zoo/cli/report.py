"""`zoo report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import allocator_option, device_option, images_options
from zoo.cli.start import starting
from zoo.cli.words import echo
from zoo.io.text import printable

if TYPE_CHECKING:
    from zoo.runs.evaluate import Split


@click.command("report", short_help="Write the report of a run, as one HTML file.")
@click.argument("run", type=click.Path(path_type=Path))
@images_options("the run's own predictions")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write.  [default: RUN/report.html; with --data NAME-report.html here]",
)
@device_option
@allocator_option
def command(
    run: Path,
    data: Path | None,
    split: Split,
    output: Path | None,
    strict: bool,
    follow_links: bool,
    allow_network: bool,
    device: str,
    allocator_tuning: bool,
) -> None:
    """Write the report of RUN: figures, plots, mistakes with what the network looked at.

    zoo finetune writes it at the end of a run. It is one file without scripts that needs no
    network. If the images are no longer where they were, it has none. --split, --strict,
    --follow-links and --allow-network apply to --data.

    \b
      zoo report runs/photos-resnet18
      zoo report runs/photos-resnet18 --data new_photos --output new.html
    """
    if data is None:
        context = click.get_current_context()
        for name in ("split", "strict", "follow_links", "allow_network"):
            source = context.get_parameter_source(name)
            if source not in (None, click.core.ParameterSource.DEFAULT):
                flag = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{flag} can only be used with --data")
    with starting(allocator_tuning=allocator_tuning):
        from zoo.report.again import write_report

    file = write_report(
        run,
        data,
        split=split,
        output=output,
        strict=strict,
        follow_links=follow_links,
        allow_network=allow_network,
        device=device,
    )
    echo(printable(file))
