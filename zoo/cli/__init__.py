"""The command line: one module per command, imported when the command is used."""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

import click

from zoo.errors import ZooError
from zoo.hookspecs import DISTRIBUTION
from zoo.io.text import printable

#: Names of the commands; each has a module in zoo.cli, with '_' for '-'.
COMMANDS = (
    "finetune",
    "lr-find",
    "tune",
    "predict",
    "evaluate",
    "compare",
    "runs",
    "report",
    "export",
    "push",
    "pull",
    "serve",
    "verify",
    "data",
    "backbones",
    "show",
    "plugins",
    "weights",
    "cache",
    "check",
    "bench",
    "new-plugin",
)


class _Failure(click.ClickException):
    """A ZooError on the command line: one message on stderr, exit code 2."""

    exit_code = 2

    def format_message(self) -> str:
        return printable(self.message, lines=True)


class _Commands(click.Group):
    """A group that imports commands when they are used, and prints ZooErrors as messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(
            f"zoo.cli.{name.replace('-', '_')}"
        ).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # File and class names may have characters that the terminal's encoding lacks.
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except ZooError as error:
            from zoo.cli.words import with_flags

            text = "\n".join([str(error), *getattr(error, "__notes__", ())])
            failure = _Failure(with_flags(text))
            if error.shared:
                from zoo.machine.processes import report_once

                report_once(failure.show)
                raise SystemExit(failure.exit_code) from error
            raise failure from error
        except KeyboardInterrupt:
            from zoo.cli.words import echo

            echo("! interrupted", err=True)
            raise SystemExit(130) from None
        except click.UsageError as error:
            # The message quotes the argument: any file name, if a shell has expanded `*`.
            error.message = printable(error.message, lines=True)  # type: ignore[misc]
            raise


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(package_name=DISTRIBUTION, message="zoo %(version)s")
@click.option(
    "--no-plugin", "no_plugins", multiple=True, metavar="NAME", help="Leave out the plugin NAME."
)
def main(no_plugins: tuple[str, ...]) -> None:
    """Fine-tune any pretrained image classifier.

    \b
      zoo finetune --data photos          train on photos/CLASS/IMAGE
      zoo predict runs/photos-... a.jpg   classify an image
      zoo backbones resnet                list matching backbones
    """
    if no_plugins:
        from zoo import plugins

        plugins.disable(no_plugins)
