"""Write docs/cli.md: the --help of every command. A test holds the file to the code."""

from pathlib import Path

import click
from click.testing import CliRunner

from zoo.cli import COMMANDS, main

PAGE = Path(__file__).with_name("cli.md")


def page() -> str:
    """The page's text."""
    runner = CliRunner()
    parts = ["# Command line\n\nWritten by `python docs/make_cli.py`; do not edit.\n"]
    for words in ([], *([command] for command in COMMANDS)):
        parts.append(section(runner, words))
        group = main.get_command(click.Context(main), words[0]) if words else None
        if isinstance(group, click.Group):
            parts += [section(runner, [*words, name]) for name in group.commands]
    return "\n".join(parts)


def section(runner: CliRunner, words: list[str]) -> str:
    """The help of one command, or of a group's subcommand."""
    shown = runner.invoke(main, [*words, "--help"], prog_name="zoo", terminal_width=100)
    title = " ".join(["zoo", *words])
    return f"## {title}\n\n```text\n{shown.stdout.rstrip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
