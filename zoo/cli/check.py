"""`zoo check`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, print_table, text
from zoo.cli.words import echo, echo_json

if TYPE_CHECKING:
    from zoo.testing import CheckResult, Kind


@click.command("check", short_help="Check what plugins declare against their contract.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--plugin", metavar="DIST", help="All that this plugin or package declares.")
@click.option(
    "--data", metavar="TEXT", help="With --plugin: a few images of its data source, as in finetune."
)
@click.option(
    "--shapes-only",
    is_flag=True,
    help="Of backbones only the checks that need no values: a second each, however large.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show also what passed or was skipped.")
@format_option("table", "json")
def command(
    names: tuple[str, ...],
    plugin: str | None,
    data: str | None,
    shapes_only: bool,
    verbose: bool,
    form: str,
) -> None:
    """Run the conformance kit: check that backbones are as their plugins declare them.

    NAME is a backbone, or a pattern with * and ?. With --plugin, sources, exporters, loggers,
    losses and transforms are checked too; a source only with --data. Nothing is downloaded. The
    exit code is 1 if a check fails; each failure says what the plugin's author must change.

    \b
      zoo check acme/tinynet
      zoo check --plugin zoo-acme --verbose
      zoo check --plugin zoo-tar --data photos.tar
      zoo check 'torchvision/vgg*' --shapes-only
    """
    from zoo import plugins
    from zoo.testing import check_backbone
    from zoo.testing.run import check_one, declared_by

    if not names and plugin is None:
        raise click.UsageError("name a backbone, or a plugin with --plugin DIST")
    wanted: list[tuple[Kind, str]] = [
        ("backbone", b.name) for name in names for b in plugins.matching(name)
    ]
    wanted += declared_by(plugin) if plugin is not None else []
    if data is None and all(kind == "source" for kind, _ in wanted):
        raise click.UsageError("name a few images of the source with --data")
    results: list[CheckResult] = []
    for kind, name in wanted:
        if kind == "source" and data is None:
            echo(f"source {name} is not checked: give --data, a few images of it", err=True)
            continue
        if kind == "backbone":
            own = check_backbone(name, shapes_only=shapes_only)
        else:
            own = check_one(kind, name, data or "")
        results += own
        if form == "table":
            _print(name if kind == "backbone" else f"{kind} {name}", own, verbose)
    if form == "json":
        echo_json(results)
    failed = {(r.kind, r.name) for r in results if r.status == "failed"}
    if form == "table" and len(wanted) > 1:
        echo(f"{len(wanted)} checked, {len(failed)} with failures", err=True)
    if failed:
        raise SystemExit(1)


def _print(name: str, results: list[CheckResult], verbose: bool) -> None:
    counts = Counter(r.status for r in results)
    summary = ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
    echo(f"{name}  {summary}, {sum(r.seconds for r in results):.1f} s")
    print_table(
        [label(), text()],
        [
            (f"  {r.status}", f"{r.check}: {r.message}" if r.message else r.check)
            for r in results
            if r.status == "failed" or verbose
        ],
    )
