"""`zoo check`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, print_table, text
from zoo.cli.words import echo, echo_json

if TYPE_CHECKING:
    from zoo.testing import CheckResult


@click.command("check", short_help="Check backbones against the plugin contract.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--plugin", metavar="DIST", help="All backbones of that plugin or package.")
@click.option(
    "--shapes-only",
    is_flag=True,
    help="Only the checks that need no values: a second a backbone, however large.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show also what passed or was skipped.")
@format_option("table", "json")
def command(
    names: tuple[str, ...], plugin: str | None, shapes_only: bool, verbose: bool, form: str
) -> None:
    """Run the conformance kit: check that backbones are as their plugins declare them.

    NAME is a backbone, or a pattern with * and ?. Nothing is downloaded. The exit code is 1 if a
    check fails; each failure says what the plugin's author must change.

    \b
      zoo check acme/tinynet
      zoo check --plugin zoo-acme --verbose
      zoo check 'torchvision/vgg*' --shapes-only
    """
    from zoo import plugins
    from zoo.testing import check_backbone

    if not names and plugin is None:
        raise click.UsageError("name a backbone, or a plugin with --plugin DIST")
    wanted = [b for name in names for b in plugins.matching(name)]
    if plugin is not None:
        wanted += [b for found in plugins.of(plugin) for b in found.backbones.values()]
        if not wanted:
            raise click.UsageError(f"plugin {plugin} declares no backbones")
    results: list[CheckResult] = []
    for backbone in wanted:
        own = check_backbone(backbone, shapes_only=shapes_only)
        results += own
        if form == "table":
            _print(backbone.name, own, verbose)
    if form == "json":
        echo_json([asdict(r) for r in results])
    failed = sorted({r.backbone for r in results if r.status == "failed"})
    if form == "table" and len(wanted) > 1:
        echo(f"{len(wanted)} backbones, {len(failed)} with failures", err=True)
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
