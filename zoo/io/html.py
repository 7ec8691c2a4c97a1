"""HTML tables of untrusted text, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from zoo.io.text import printable


def facts_html(facts: Mapping[str, object]) -> str:
    """Return a table with a row for each fact, and its name before it."""
    rows = "".join(f"<tr><th>{_cell(k)}</th><td>{_cell(v)}</td></tr>" for k, v in facts.items())
    return f"<table>{rows}</table>"


def table_html(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with named columns."""
    head = "".join(f"<th>{_cell(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(v)}</td>' for v in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    return escape(printable(value))
