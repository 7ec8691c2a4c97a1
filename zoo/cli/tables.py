"""Tables that fit the terminal; in other output, such as a pipe, each row is one line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoo.cli.words import echo
from zoo.io.text import printable

#: Spaces between two columns.
_GAP = 2

#: Minimum width of a column of text, however narrow the terminal is.
_LEAST_TEXT = 10

#: The width if the output is not a terminal.
_UNBOUNDED = 10**6


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: The header; a table whose columns have no names has no header.
        least: Minimum width, for a table that is printed in parts.
        whole: Whether cells are never wrapped.
        right: Whether cells are right-aligned.
    """

    name: str = ""
    least: int = 0
    whole: bool = False
    right: bool = False


def text(name: str = "") -> Column:
    """Return a column whose cells may be wrapped."""
    return Column(name)


def label(name: str = "", *, least: int = 0) -> Column:
    """Return a column of short texts that are not wrapped."""
    return Column(name, least, whole=True)


def number(name: str = "", *, least: int = 0) -> Column:
    """Return a column of right-aligned numbers."""
    return Column(name, least, whole=True, right=True)


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text unchanged: no markup, emoji codes or highlighting."""
    # In a notebook, rich would print each line as HTML of its own, or the codes of a terminal, as
    # the kernel sets FORCE_COLOR.
    notebook = "ipykernel" in sys.modules
    console = Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        force_jupyter=False,
        force_terminal=False if notebook else None,
    )
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def least_width(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    """Return the width below which numbers or labels of a table would have to be wrapped."""
    return _width(columns, rows, least=True)


def print_table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    *,
    console: Console | None = None,
    header: bool = True,
    style: str | None = None,
) -> None:
    """Print a table that is as wide as its contents, or as the terminal.

    On a narrow terminal, cells of text and headers are wrapped. Numbers and labels never are; if
    the table is too wide even so, lines are longer than the terminal is wide.

    Args:
        columns: The columns, from left to right.
        rows: One cell per column; control characters are escaped. Prints nothing without rows.
        console: The console to print to. Default: stdout.
        header: Whether to print the names of the columns.
        style: A style of rich, for all cells.
    """
    console = console or plain_console()
    cells = [[printable(cell) for cell in row] for row in rows]
    if not cells:
        return
    if _width(columns, cells, least=False) <= console.width:
        _print_lines(columns, cells, console, header=header, style=style)
        return
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        show_header=header and any(column.name for column in columns),
        header_style="bold",
        style=style or "",
    )
    for column in columns:
        lines = column.name.split()
        table.add_column(
            "\n".join(lines),
            justify="right" if column.right else "left",
            min_width=max(column.least, *map(cell_len, lines), 0),
            no_wrap=column.whole,
            overflow="fold",
        )
    for row in cells:
        table.add_row(*map(Text, row))
    least = least_width(columns, cells)
    if least > console.width:
        table.width = least
    console.print(table, soft_wrap=False, crop=False)


def print_fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print the columns that fit side by side, from the left; name the others on stderr.

    The first column is always printed. Columns without any text are left out.
    """
    console = plain_console()
    shown: list[int] = []
    hidden: list[str] = []
    used = -_GAP
    for n, column in enumerate(columns):
        needed = _GAP + least_width([column], [(row[n],) for row in rows])
        if n == 0 or (any(row[n] for row in rows) and used + needed <= console.width):
            shown.append(n)
            used += needed
        elif any(row[n] for row in rows):
            hidden.append(column.name)
    cells = [[row[n] for n in shown] for row in rows]
    print_table([columns[n] for n in shown], cells, console=console)
    if hidden:
        echo(f"in a wider terminal or with --format csv also: {', '.join(hidden)}", err=True)


def print_facts(
    facts: Iterable[tuple[str, str]],
    *,
    console: Console | None = None,
    least: int = 0,
    style: str | None = None,
    wrapped: bool = True,
) -> None:
    """Print names and values, one pair per line; on a terminal, long values are wrapped.

    Args:
        facts: Pairs of name and value; an empty name if the value belongs to the name above.
        console: The console to print to. Default: stdout.
        least: Minimum width of the names.
        style: A style of rich.
        wrapped: Whether long values are wrapped; paths and commands that are not can be copied.
    """
    if wrapped:
        print_table([label(least=least), text()], facts, console=console, style=style)
        return
    facts = list(facts)
    columns = [label(least=max([least, *(cell_len(name) for name, _ in facts)])), label()]
    # Table by table, because each row is as wide as the widest one.
    for fact in facts:
        print_table(columns, [fact], console=console, style=style)


def _print_lines(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    console: Console,
    *,
    header: bool,
    style: str | None,
) -> None:
    """Print a table that needs no wrapping, line by line: rich takes seconds for 1,000 rows."""
    names = [column.name for column in columns]
    widths = [
        max(column.least, *(cell_len(row[n]) for row in (names, *rows)))
        for n, column in enumerate(columns)
    ]

    def line(row: Sequence[str]) -> str:
        padded = (
            set_cell_size(cell, width)
            if not column.right
            else " " * (width - cell_len(cell)) + cell
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        return (" " * _GAP).join(padded).rstrip()

    if header and any(names):
        console.print(Text(line(names), style="bold"))
    console.print(Text("\n".join(map(line, rows)), style=style or ""))


def _width(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, least: bool) -> int:
    total = _GAP * (len(columns) - 1)
    for n, column in enumerate(columns):
        cells = max((cell_len(printable(row[n])) for row in rows), default=0)
        words = column.name.split() if least else [column.name]
        total += max(
            min(cells, _LEAST_TEXT) if least and not column.whole else cells,
            max(map(cell_len, words), default=0),
            column.least,
        )
    return total
