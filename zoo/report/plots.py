"""Plots of the report as SVG, whose colours follow the page's light and dark style."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from markupsafe import Markup, escape

from zoo.report.measured import Measured
from zoo.runs.figures import wilson
from zoo.runs.growth import Growth
from zoo.tasks import metric_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours as matplotlib writes them, and the variable of the page's style in the place of each.
_COLOURS = {
    "#010101": "ink",
    "#020202": "muted",
    "#030303": "line",
    "#040404": "first",
    "#050505": "second",
}
_INK, _MUTED, _LINE, _FIRST, _SECOND = _COLOURS

#: Size of a plot in inches: small, so that its text can be read on a phone.
_SIZE = (3.7, 2.75)

#: Left, bottom, width and height of the axes, as parts of the figure.
_PLACE = (0.135, 0.17, 0.835, 0.735)

#: Bins of the reliability diagram.
_BINS = 10

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "zoo",
    "text.parse_math": False,
    "text.usetex": False,
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.color": _LINE,
    "grid.linewidth": 0.5,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.bbox": "standard",
}


def learning_curves(rows: Sequence[Mapping[str, float]], main: str) -> dict[str, Markup]:
    """Plot loss and main metric by epoch, for the splits that they were measured on.

    Args:
        rows: Rows of metrics.csv, at least two; epoch 0 is the probe.
        main: Name of the main metric.

    Returns:
        The plots of those that were measured, by title.
    """
    from matplotlib.ticker import MaxNLocator

    found = {}
    title = "Accuracy" if main == "accuracy" else "Main metric"
    for key, label, heading in (("loss", "loss", "Loss"), (main, metric_label(main), title)):
        points = {
            split: [
                (row["epoch"], value)
                for row in rows
                if np.isfinite(value := row.get(f"{split}_{key}", np.nan))
            ]
            for split in ("train", "val")
        }
        if not any(points.values()):
            continue
        with _axes("epoch", label) as (axes, drawn):
            for split, colour in (("train", _SECOND), ("val", _FIRST)):
                if points[split]:
                    x, y = zip(*points[split], strict=True)
                    axes.plot(x, y, "o-", ms=3, color=colour, label=split)
            if key != "loss":
                _percent(axes.yaxis)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.legend()
            split = "val" if points["val"] else "train"
            values = [f"epoch {epoch:g}: {value:.4g}" for epoch, value in points[split]]
            drawn.append(f"{split} {label} by epoch: {', '.join(values)}")
        found[heading] = _svg(axes, drawn[0], f"learning-{key}")
    return found


def reliability(parts: Sequence[Measured]) -> Markup:
    """Plot the share of correct predictions by predicted probability, in 10 equal bins."""
    exclusive = parts[0].task.exclusive
    label = "correct" if exclusive else "share of labels"
    with _axes("predicted probability", label) as (axes, drawn):
        axes.plot([0, 1], [0, 1], color=_MUTED, lw=0.9, ls=(0, (4, 3)))
        for part, colour in zip(parts, (_FIRST, _SECOND), strict=False):
            if exclusive:
                sure, right = part.confidence, part.correct
            else:
                sure, right = part.probabilities.ravel(), part.truth.ravel()
            bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
            points = []
            for n in range(_BINS):
                here = bins == n
                if here.any():
                    share = wilson(float(right[here].sum()), float(here.sum()))
                    points.append((float(sure[here].mean()), share, int(here.sum())))
            x = [each[0] for each in points]
            y = [each[1].value for each in points]
            limits = [
                [share.value - share.low for _, share, _ in points],
                [share.high - share.value for _, share, _ in points],
            ]
            axes.errorbar(x, y, limits, fmt="none", color=colour, elinewidth=0.9)
            area = [9 + 110 * each[2] / len(bins) for each in points]
            axes.scatter(x, y, area, color=colour, lw=0, label=part.split)
            told = [f"{count} at {a:.0%}: {b.value:.0%}" for a, b, count in points]
            drawn.append(
                f"{part.split}, images at a probability and their share: {', '.join(told)}"
            )
        axes.set(xlim=(-0.02, 1.03), ylim=(-0.02, 1.03))
        _percent(axes.xaxis)
        _percent(axes.yaxis)
        axes.legend(loc="upper left")
    return _svg(axes, "; ".join(drawn), "reliability")


def coverage(parts: Sequence[Measured]) -> Markup:
    """Plot accuracy on the images with the highest confidence against their share."""
    lowest = []
    with _axes("share of images answered, most confident first", "accuracy on them") as (
        axes,
        drawn,
    ):
        for part, colour in zip(parts, (_FIRST, _SECOND), strict=False):
            order = np.argsort(-part.confidence, kind="stable")
            right = part.correct[order].cumsum()
            counts = np.arange(1, len(order) + 1)
            # A point for each percent is as fine as the plot.
            chosen = sorted({max(1, round(len(order) * n / 100)) - 1 for n in range(1, 101)})
            x = counts[chosen] / len(order)
            limits = [wilson(float(right[n]), float(n + 1)) for n in chosen]
            axes.plot(x, [each.value for each in limits], color=colour, label=part.split)
            axes.fill_between(
                x,
                [each.low for each in limits],
                [each.high for each in limits],
                color=colour,
                alpha=0.13,
                lw=0,
            )
            lowest.append(min(each.value for each in limits))
            told = []
            for share in (0.5, 0.8, 0.9, 1.0):
                count = max(1, round(len(order) * share))
                told.append(f"{share:.0%}: {right[count - 1] / count:.1%}")
            drawn.append(f"{part.split} accuracy at a share of images: {', '.join(told)}")
        # The intervals of the first few images would leave no room for the rest.
        bottom = max(0.0, 2 * min(lowest) - 1 - 0.02)
        axes.set(xlim=(0, 1.02), ylim=(bottom, 1 + (1 - bottom) / 40))
        _percent(axes.xaxis)
        _percent(axes.yaxis)
        axes.legend(loc="lower left")
    return _svg(axes, "; ".join(drawn), "coverage")


def growth_curve(growth: Growth) -> Markup:
    """Plot the accuracy of probes against their number of train images, and its extrapolation."""
    with _axes("train images", "val accuracy of the probe") as (axes, drawn):
        for images, values in zip(growth.images, growth.accuracy, strict=True):
            axes.plot([images] * len(values), values, "o", ms=3.5, color=_FIRST)
        means = [sum(each) / len(each) for each in growth.accuracy]
        last = growth.images[-1]
        if growth.curve is not None and growth.gain is not None:
            a, b, c = growth.curve
            x = np.geomspace(growth.images[0], 2 * last, 60)
            y = 1 - a - b * x**-c
            known = x <= last
            axes.plot(x[known], y[known], color=_FIRST, lw=1.2)
            axes.plot(x[~known], y[~known], color=_FIRST, lw=1.2, ls=(0, (4, 3)))
            gain, low, high = growth.gain
            end = 1 - a - b * (2.0 * last) ** -c
            axes.errorbar(
                [2 * last],
                [end],
                [[gain - min(gain, low)], [max(gain, high) - gain]],
                fmt="o",
                ms=4,
                color=_SECOND,
                label="expected",
                elinewidth=1,
            )
        else:
            axes.plot(growth.images, means, color=_FIRST, lw=1.2)
        axes.set_xscale("log")
        from matplotlib.ticker import NullFormatter, NullLocator

        ticks = [*growth.images, *([2 * last] if growth.gain is not None else [])]
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        _percent(axes.yaxis)
        told = [f"{n} images: {m:.1%}" for n, m in zip(growth.images, means, strict=True)]
        drawn.append(f"mean val accuracy of the probe, {', '.join(told)}")
    return _svg(axes, drawn[0], "growth")


def _percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=None))


@contextmanager
def _axes(xlabel: str, ylabel: str) -> Iterator[tuple[Axes, list[str]]]:
    """Yield axes in the style of the report, and a list for the alternative text."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        # Nothing of the user's own style, so that the same run gives the same file.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast("Any", _STYLE))
        figure = Figure(figsize=_SIZE)
        # A layout that measures text would draw everything twice.
        axes = figure.add_axes(_PLACE)
        axes.set_xlabel(xlabel)
        axes.set_title(ylabel)
        yield axes, []


def _svg(axes: Axes, text: str, name: str) -> Markup:
    """Return the figure as an element of HTML."""
    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast("Any", _STYLE))
        cast("Figure", axes.figure).savefig(
            content, format="svg", metadata={"Date": None, "Creator": None}
        )
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style[^>]*>.*?</style>\s*", "", svg, flags=re.S)
    view = re.search(r'viewBox="([^"]*)"', svg)
    body = svg[svg.index(">") + 1 :]
    # Several plots are in one page.
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    body = re.sub(r" ?font-family: [^;\"]*;?", "", body)
    for colour, variable in _COLOURS.items():
        body = body.replace(colour, f"var({2 * '-'}{variable})")
    box = view[1] if view else "0 0 266 198"
    return Markup(
        f'<svg class="plot" role="img" aria-label="{escape(text)}" viewBox="{escape(box)}">{body}'
    )
