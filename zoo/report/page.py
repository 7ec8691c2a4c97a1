"""The page of the report: its content as plain data, rendered by the template `page.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from zoo.io.text import printable
from zoo.report.measured import Measured
from zoo.report.thumbnails import Thumbnail
from zoo.runs.figures import ClassFigures, Figure
from zoo.tasks import metric_label

#: Maximum number of classes of a confusion matrix; with more, the largest confusions are listed.
WIDEST_MATRIX = 30

#: Maximum number of listed confusions.
MOST_CONFUSIONS = 30

#: Maximum number of classes in the table of classes.
MOST_CLASSES = 200


@dataclass(frozen=True, kw_only=True)
class Shot:
    """An image of the report with its caption."""

    name: str
    split: str
    label: str
    predicted: str
    confidence: float
    right: bool
    thumbnail: Thumbnail

    @property
    def alt(self) -> str:
        """Alternative text of the image."""
        return f"{self.name}: labelled {self.label}, predicted {self.predicted}"


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A row of images, and what they have in common."""

    id: str
    title: str
    text: str
    shots: Sequence[Shot]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot with its heading and explanation."""

    title: str
    text: str
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that the report shows; `..._text` says what is not there, and why."""

    title: str
    subtitle: str
    source: str
    model: str
    parts: Sequence[Measured]
    warnings: Sequence[str]
    chosen: Sequence[str]
    thresholds: Mapping[str, float]
    transfer: str
    counts: Sequence[int]
    class_names: Sequence[str]
    galleries: Sequence[Gallery]
    training: Sequence[Plot]
    training_text: str
    trust: Sequence[Plot]
    more: Sequence[Plot]
    more_text: str
    data: Sequence[str]
    data_text: str
    settings: Sequence[tuple[str, str, str]]
    defaults: Sequence[tuple[str, str]]
    environment: Sequence[tuple[str, str]]
    omissions: Sequence[str]


def render(content: Content) -> str:
    """Return the report as HTML; all text is escaped, and nothing is loaded from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(
        metric=metric_label, value=_value, interval=_interval, bar=_bar, percent=_percent
    )
    return environment.get_template("page.html").render(
        c=content,
        css=Markup((Path(__file__).with_name("page.css")).read_text(encoding="utf-8")),
        classes=[_class_rows(part, content.counts) for part in content.parts],
        confusions=[_confusions(part, content.class_names) for part in content.parts],
    )


def _finalize(value: Any) -> Any:
    """Escape characters that would reorder or hide text; markup is zoo's own."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable(value, lines=True)


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _value(figure: Figure | None, name: str = "") -> str:
    if figure is None:
        return "not measured"
    return f"{figure.value:.3f}" if name == "log_loss" else f"{figure.value:.1%}"


def _interval(figure: Figure | None, name: str = "") -> str:
    if figure is None:
        return ""
    if name == "log_loss":
        return f"{figure.low:.3f} to {figure.high:.3f}"
    return f"{figure.low * 100:.1f} to {figure.high * 100:.1f}%"


def _bar(figure: Figure | None) -> Markup:
    """Return a small drawing of an interval between 0 and 1."""
    if figure is None:
        return Markup("")
    low, high, value = (round(100 * each, 1) for each in (figure.low, figure.high, figure.value))
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="axis" d="M0 5H100"/><path class="range" d="M{low} 5H{high}"/>'
        f'<path class="dot" d="M{value} 1V9"/></svg>'
    )


def _class_rows(part: Measured, counts: Sequence[int]) -> list[tuple[ClassFigures, int | None]]:
    """Return figures and number of train images of classes; of many, those with the lowest F1."""
    classes = part.figures.classes
    known: Sequence[int | None] = counts or [None] * len(classes)
    rows = list(zip(classes, known, strict=True))
    if len(rows) > MOST_CLASSES:
        rows.sort(key=lambda row: 2 if row[0].f1 is None else row[0].f1.value)
    return rows[:MOST_CLASSES]


def _confusions(part: Measured, class_names: Sequence[str]) -> Mapping[str, Any]:
    """Return the confusion matrix of a split with shares of rows, or its largest confusions."""
    if not part.task.exclusive:
        return {}
    truth, predicted = part.truth.argmax(axis=1), part.predicted.argmax(axis=1)
    classes = len(class_names)
    if classes <= WIDEST_MATRIX:
        matrix = np.zeros((classes, classes), dtype=int)
        np.add.at(matrix, (truth, predicted), 1)
        totals = np.maximum(1, matrix.sum(axis=1, keepdims=True))
        return {"matrix": matrix.tolist(), "shares": (matrix / totals).round(3).tolist()}
    wrong = truth != predicted
    pairs, counts = np.unique(
        np.stack([truth[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    support = part.truth.sum(axis=0)
    return {
        "pairs": [
            (class_names[a], class_names[b], int(counts[n]), int(support[a]))
            for n in order[:MOST_CONFUSIONS]
            for a, b in [pairs[n].tolist()]
        ],
        "all": len(pairs),
    }
