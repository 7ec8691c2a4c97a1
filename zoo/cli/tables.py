"""Tables that fit the terminal; elsewhere, as in a pipe, one line a row, however long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoo.io.text import printable

#: Spaces between two columns.
_GAP = 2

#: A column of text is made no narrower than this, whatever the terminal.
_LEAST_TEXT = 10

#: The width where the output is no terminal.
_UNBOUNDED = 10**6


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its header; a table whose columns have no names has no header.
        least: Its width at least, for a table that is printed in parts.
        whole: Its cells are never broken across lines.
        right: Its cells are aligned to the right.
    """

    name: str = ""
    least: int = 0
    whole: bool = False
    right: bool = False


def text(name: str = "", *, least: int = 0) -> Column:
    """A column whose cells may take several lines."""
    return Column(name, least)


def label(name: str = "", *, least: int = 0) -> Column:
    """A column of short texts that stay in one line."""
    return Column(name, least, whole=True)


def number(name: str = "", *, least: int = 0) -> Column:
    """A column of numbers, aligned to the right."""
    return Column(name, least, whole=True, right=True)


def plain_console(*, stderr: bool = False) -> Console:
    """A console that shows text as it is: no markup, emoji codes or highlighting."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def least_width(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    """The width below which numbers or labels of a table would have to be broken."""
    return _width(columns, rows, least=True)


def print_table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    *,
    console: Console | None = None,
    header: bool = True,
    style: str | None = None,
) -> None:
    """Print a table, as wide as it needs to be or as the terminal is.

    On a narrow terminal cells of text take several lines, and so do headers. A number is never
    broken: where even that is too wide, the lines are longer than the terminal's.

    Args:
        columns: From left to right.
        rows: A cell a column; what a terminal would obey is shown. Without rows nothing is printed.
        console: Where to. Without it: stdout.
        header: Whether to print the columns' names.
        style: rich's, of all cells.
    """
    console = console or plain_console()
    cells = [[printable(cell) for cell in row] for row in rows]
    if not cells:
        return
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        show_header=header and any(column.name for column in columns),
        header_style="bold",
        style=style or "",
    )
    fits = _width(columns, cells, least=False) <= console.width
    for column in columns:
        lines = [column.name] if fits else column.name.split()
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
    if console.is_terminal:
        console.print(table, soft_wrap=False, crop=False)
        return
    with console.capture() as captured:
        console.print(table, soft_wrap=False, crop=False)
    # rich fills the last column with spaces.
    text_lines = (line.rstrip() for line in captured.get().splitlines())
    console.out("\n".join(text_lines), highlight=False)


def print_facts(
    facts: Iterable[tuple[str, str]],
    *,
    console: Console | None = None,
    least: int = 0,
    style: str | None = None,
) -> None:
    """Print names and values, a line each; on a terminal long values go on below themselves.

    Args:
        facts: Names, empty where a value belongs to the name above, and values.
        console: Where to. Without it: stdout.
        least: Width of the names at least.
        style: rich's.
    """
    print_table([label(least=least), text()], facts, console=console, style=style)


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
