"""Write docs/cli.md: the --help of every command. A test holds the file to the code."""

from pathlib import Path

from click.testing import CliRunner

from zoo.cli import COMMANDS, main

PAGE = Path(__file__).with_name("cli.md")


def page() -> str:
    """The page's text."""
    runner = CliRunner()
    parts = ["# Command line\n\nWritten by `python docs/make_cli.py`; do not edit.\n"]
    for command in ("", *COMMANDS):
        words = [*([command] if command else []), "--help"]
        shown = runner.invoke(main, words, prog_name="zoo", terminal_width=100)
        title = f"zoo {command}".strip()
        parts.append(f"## {title}\n\n```text\n{shown.stdout.rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
