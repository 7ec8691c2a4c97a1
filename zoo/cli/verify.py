"""`zoo verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import format_option
from zoo.cli.start import starting
from zoo.cli.tables import label, print_table, text
from zoo.cli.words import echo, echo_json
from zoo.errors import RunError
from zoo.io.text import count, printable

if TYPE_CHECKING:
    from zoo.integrity.finding import Finding


@click.command("verify", short_help="Check that a run is undamaged and safe.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@format_option("text", "json")
def command(runs: tuple[Path, ...], form: str) -> None:
    """Check all files of each RUN, a run folder or a model.safetensors.

    For each file, a line says ok, unchecked (there is nothing to check it against) or wrong, and
    gives details. The exit code is 2 if anything is wrong. No code from the run is executed.

    \b
      zoo verify runs/photos-resnet18
      zoo verify runs/* --format json
    """
    with starting():
        from zoo.integrity import verify
        from zoo.integrity.finding import Finding

    found: dict[Path, tuple[Finding, ...]] = {}
    for run in runs:
        try:
            found[run] = verify(run)
        except RunError as error:
            found[run] = (Finding(file="", state="wrong", detail=str(error)),)
        if form == "text":
            _print(run, found[run], titled=len(runs) > 1)
    if form == "json":
        echo_json([{"run": run, "findings": findings} for run, findings in found.items()])
    wrong = [f for findings in found.values() for f in findings if f.state == "wrong"]
    if wrong:
        raise RunError(f"{count(len(wrong), 'file')} wrong; the lines above give the reasons")


def _print(run: Path, findings: tuple[Finding, ...], *, titled: bool) -> None:
    if titled:
        echo(printable(run))
    print_table(
        [label(), label(), text()],
        [(finding.state, finding.file, finding.detail) for finding in findings],
    )
