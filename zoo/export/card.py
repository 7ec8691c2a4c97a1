"""The section of a run's model card on its exports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from zoo.export.proof import ExportReport
from zoo.io.files import is_file
from zoo.io.parse import read_bounded
from zoo.io.text import markdown
from zoo.runs.read import Run
from zoo.runs.write import CARD

_HEADING = "## Exports"

#: Maximum bytes of a card that is read.
_MOST = 2**24

_ABOUT = (
    "Compared with the run in torch; accuracy with its 95% confidence interval; speeds on the CPU\n"
    "of the machine that wrote the file, and in brackets those of torch there."
)

#: Follows that in a card that is published.
_LEFT_OUT = "The files are not part of this repository; `zoo export` writes them."

_COLUMNS = (
    "file",
    "format",
    "size",
    "compared on",
    "same labels",
    "accuracy",
    "ms for one image",
    "images/s",
)


def card_of(run: Run) -> tuple[Path, str] | None:
    """Return the path and text of a run's model card; None if it has none that can be written."""
    file = (run.path.parent if is_file(run.path) else run.path) / CARD
    text = _read(file)
    # A README.md beside a model file may be of something else.
    if text is None or run.info.backbone not in text or not os.access(file.parent, os.W_OK):
        return None
    return file, text


def _read(file: Path) -> str | None:
    try:
        if not is_file(file) or file.is_symlink():
            return None
        return read_bounded(file, _MOST).decode()
    except (OSError, ValueError):
        return None


def with_export(text: str, report: ExportReport) -> str:
    """Return the text of a card with a row for an export, in place of an earlier one."""
    name = markdown(Path(report.file).name)
    rows = [row for row in _rows(text) if not row.startswith(f"| {name} |")]
    rows.append(f"| {' | '.join([name, *_cells(report)])} |")
    return _with_section(text, _ABOUT, rows)


def with_exports_of(run: Path, text: str) -> str:
    """Return the text of a card to publish, with the exports that the card in a run folder lists.

    Nothing else states them: exports lie beside the run folder, and are not published with it.
    """
    rows = _rows(_read(run / CARD) or "")
    return _with_section(text, f"{_ABOUT}\n{_LEFT_OUT}", rows) if rows else text


def _rows(text: str) -> list[str]:
    """Return the rows of the exports in a card, without the head of the table."""
    section = text.partition(f"{_HEADING}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][1:]


def _with_section(text: str, about: str, rows: Sequence[str]) -> str:
    """Return the text of a card with a section of these rows, in place of an earlier one."""
    before, _, after = text.partition(f"{_HEADING}\n")
    _, later, rest = after.partition("\n## ")
    table = "\n".join(
        [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|", *rows],
    )
    return f"{before.rstrip()}\n\n{_HEADING}\n\n{about}\n\n{table}\n{later}{rest}"


def _cells(report: ExportReport) -> list[str]:
    options = [
        name if value is True else f"{name} {value}" for name, value in report.options.items()
    ]
    accuracy = ""
    if report.accuracy is not None and report.accuracy_interval is not None:
        low, high = report.accuracy_interval
        accuracy = f"{report.accuracy:.2%} ({low:.2%}-{high:.2%})"
    return [
        markdown(", ".join([report.format, *options])),
        f"{report.bytes / 1e6:.1f} MB",
        # A card may be published; where its author's files lie is of no use to others.
        markdown(f"{report.source.rpartition('/')[2]} ({report.images})"),
        f"{report.agreement:.2%}",
        accuracy,
        f"{report.latency_ms:.1f} ({report.run_latency_ms:.1f})",
        f"{report.images_per_second:.0f} ({report.run_images_per_second:.0f})",
    ]
