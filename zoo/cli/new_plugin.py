"""`zoo new-plugin`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.words import echo

KINDS = ("backbone", "source", "exporter", "logger", "loss", "transform")


@click.command("new-plugin", short_help="Write the package of a new plugin.")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default=KINDS[0],
    show_default=True,
    help="What the plugin declares.",
)
@click.option(
    "--out",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Folder to write it into.",
)
def command(name: str, kind: str, out: Path) -> None:
    """Write a package zoo-NAME that declares a backbone of your own, or something else.

    It has a small example (a network, a source of ZIP archives, an exported format, a logger, a
    loss, a transform), tests that pass, a README and a CI workflow. Replace the example by your
    own; the tests check what zoo expects of it.

    \b
      zoo new-plugin acme
      cd zoo-acme && pip install -e '.[test]' && pytest
      zoo new-plugin shop --kind source
    """
    from zoo.plugins.template import write_package

    package = write_package(name, out, kind)
    use = "\n".join(f"  {line}" for line in package.use)
    modules = "\n".join(f"  {module}" for module in package.modules)
    echo(
        f"{package.folder} is written. Next:\n"
        f"  cd {package.folder}\n"
        f"  pip install -e '.[test]' && pytest\n"
        f"{use}\n"
        f"Then replace the example by your own {kind}:\n"
        f"{modules}"
    )
