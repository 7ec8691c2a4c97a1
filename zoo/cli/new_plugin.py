"""`zoo new-plugin`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.words import echo


@click.command("new-plugin", short_help="Write the package of a new plugin.")
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Folder to write it into.",
)
def command(name: str, out: Path) -> None:
    """Write a package zoo-NAME that declares a backbone of your own.

    It has a small network, tests that pass, a README and a CI workflow. Replace the network by your
    own; the tests check what zoo expects of it.

    \b
      zoo new-plugin acme
      cd zoo-acme && pip install -e '.[test]' && pytest
    """
    from zoo.plugins.template import module_name, write_package

    package = write_package(name, out)
    declaration = package / "src" / module_name(name)
    echo(
        f"{package} is written. Next:\n"
        f"  cd {package}\n"
        f"  pip install -e '.[test]' && pytest\n"
        f"  zoo finetune --backbone {name}/smallnet --weights none\n"
        f"Then put your own network into {declaration / 'smallnet.py'}\n"
        f"and its declaration into {declaration / '__init__.py'}."
    )
