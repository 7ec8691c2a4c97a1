"""Plots of compared backbones, of learning-rate range tests and of searches."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import RunError
from zoo.io.text import printable
from zoo.pipeline.compare import Comparison
from zoo.pipeline.lr_find import RangeTest
from zoo.recipe.search import Choices, value_text
from zoo.runs.search import Search, Trial
from zoo.runs.write import write_file
from zoo.tasks import metric_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Size of the figure in inches.
_SIZE = (7.0, 4.5)

#: Formats of `plot_range_test`, by the file's extension.
FORMATS = (".svg", ".png")

#: Size of each panel of the plot of a search, in inches, and panels side by side.
_PANEL, _SIDE_BY_SIDE = (3.6, 2.8), 3

#: Colour of trials by state; the best is drawn over the others.
_COLOURS = {"complete": "tab:blue", "pruned": "0.65", "running": "tab:orange"}
_BEST = "tab:red"


def plot_comparison(comparison: Comparison, file: Path) -> None:
    """Write an SVG file with the metric of each backbone, its 95 % interval and its speed.

    Those that were not measured are left out. The same comparison gives the same file.

    Raises:
        RunError: The file can't be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    shown = [each for each in comparison.candidates if each.images_per_second]
    rates = [each.images_per_second or 1.0 for each in shown]
    middle = math.sqrt(min(rates, default=1.0) * max(rates, default=1.0))
    for each, rate in zip(shown, rates, strict=True):
        if each.score is None:
            continue
        # Names lie towards the middle, so that the frame does not cut them.
        left = rate > middle
        below, above = each.score - (each.low or 0.0), (each.high or 1.0) - each.score
        axes.errorbar(
            [rate],
            [100 * each.score],
            yerr=[[100 * below], [100 * above]],
            fmt="o",
            capsize=3,
        )
        axes.annotate(
            # A dollar sign would start a formula.
            printable(each.name).replace("$", r"\$"),
            (rate, 100 * each.score),
            xytext=(-6 if left else 6, 6),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.1)
    axes.set_xlabel(f"images per second ({comparison.device}, forward pass)")
    axes.set_ylabel(f"{metric_label(comparison.metric)} of a probe, % (95 % interval)")
    axes.set_title(f"{comparison.images} images, {comparison.classes} classes", fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.25)
    _save(figure, file, "svg")


def plot_range_test(test: RangeTest, file: Path) -> None:
    """Write an SVG or PNG file with the losses at each learning rate, and the suggestions.

    Losses above the largest smoothed one are cut off. The same test gives the same SVG file.

    Args:
        test: The test.
        file: Its extension is one of `FORMATS`.

    Raises:
        RunError: The file can't be written, or has another extension.
    """
    from matplotlib.figure import Figure

    check_format(file)
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(test.lr, test.losses, ".", color="0.7", label="each step")
    axes.plot(test.lr, test.smoothed, color="C0", label="smoothed")
    lines = (("valley", test.valley, "C2"), ("steep", test.steep, "C1"))
    for name, rate, colour in (*lines, ("recipe", test.recipe_lr, "0.4")):
        if rate is not None:
            style = ":" if name == "recipe" else "--"
            axes.axvline(rate, color=colour, linestyle=style, label=f"{name}: lr = {rate:.2g}")
    axes.set_xscale("log")
    if test.smoothed:
        axes.set_ylim(0, 1.1 * max(test.smoothed))
    axes.set_xlabel(f"lr, of the backbone (that of the head is {test.head_lr_mult:g} times it)")
    axes.set_ylabel("train loss")
    axes.set_title(f"{printable(test.backbone)}, {test.images} train images", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(visible=True, alpha=0.25)
    _save(figure, file, file.suffix[1:])


def plot_search(search: Search, file: Path) -> None:
    """Write an SVG file with the metric of each trial, by epoch and by each searched field.

    Trials that failed, or have no epoch or result, are left out. The same search gives the same
    file.

    Raises:
        RunError: The file can't be written.
    """
    from matplotlib.figure import Figure

    panels = 1 + len(search.ranges)
    columns = min(panels, _SIDE_BY_SIDE)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(columns * _PANEL[0], rows * _PANEL[1]), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    # The best last, over the others.
    shown = [t for t in search.trials if t.state != "failed" and t.shown_value is not None]
    shown.sort(key=lambda trial: trial == search.best)
    for trial in shown:
        epochs = range(1, len(trial.values) + 1)
        style = {"color": _colour(search, trial), "linewidth": 1.0, "marker": ".", "markersize": 4}
        axes[0].plot(list(epochs), _shown(search, trial.values), **style)
        for each, name in zip(axes[1:], search.ranges, strict=False):
            _point(each, search, trial, name)
    axes[0].set_xlabel("epoch")
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    for each, (name, among) in zip(axes[1:], search.ranges.items(), strict=False):
        each.set_xlabel(name)
        if isinstance(among, Choices):
            each.set_xticks(range(len(among.values)))
            each.set_xticklabels(
                [printable(value_text(v)).replace("$", r"\$") for v in among.values], fontsize=8
            )
            each.set_xlim(-0.5, len(among.values) - 0.5)
        else:
            each.set_xscale("log" if among.log else "linear")
            each.set_xlim(among.low, among.high)
    for each in axes[:panels]:
        each.set_ylabel(f"val {metric_label(search.metric)}{_unit(search)}", fontsize=8)
        each.tick_params(labelsize=8)
        each.grid(visible=True, alpha=0.25)
    for each in axes[panels:]:
        each.remove()
    figure.suptitle("red: the best; blue: complete; grey: stopped early", fontsize=9)
    _save(figure, file, "svg")


def _point(axes: Axes, search: Search, trial: Trial, name: str) -> None:
    among, value = search.ranges[name], trial.params[name]
    at: Any = among.values.index(value) if isinstance(among, Choices) else value
    height = _shown(search, (trial.shown_value or 0.0,))
    axes.plot([at], height, "o", color=_colour(search, trial), markersize=5)


def _colour(search: Search, trial: Trial) -> str:
    return _BEST if trial == search.best else _COLOURS[trial.state]


def _shown(search: Search, values: tuple[float, ...]) -> list[float]:
    """Return values of the metric in per cent, or losses."""
    return [-value if search.metric == "log-loss" else 100 * value for value in values]


def _unit(search: Search) -> str:
    return "" if search.metric == "log-loss" else ", %"


def check_format(file: Path) -> None:
    """Check that a plot can be written in the format of a file's extension.

    Raises:
        RunError: It can't.
    """
    if file.suffix not in FORMATS:
        raise RunError(f"{file}: name a file that ends in {' or '.join(FORMATS)}")


def _save(figure: Any, file: Path, kind: str) -> None:
    """Write a figure of matplotlib atomically.

    Raises:
        RunError: The file can't be written.
    """
    import matplotlib as mpl

    metadata = {"Date": None} if kind == "svg" else None
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "zoo", "svg.fonttype": "none"}):
        figure.savefig(content, format=kind, metadata=metadata)
    write_file(file, content.getbuffer())
