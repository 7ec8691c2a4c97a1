"""Plots of compared backbones, accuracy against speed, and of learning-rate range tests."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from zoo.errors import RunError
from zoo.io.files import replacing
from zoo.io.text import printable
from zoo.pipeline.compare import Comparison
from zoo.pipeline.lr_find import RangeTest
from zoo.tasks import metric_label

#: Size of the figure in inches.
_SIZE = (7.0, 4.5)

#: Formats of `plot_range_test`, by the file's extension.
FORMATS = (".svg", ".png")


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
    try:
        with (
            replacing(file) as beside,
            mpl.rc_context({"svg.hashsalt": "zoo", "svg.fonttype": "none"}),
        ):
            figure.savefig(beside, format=kind, metadata=metadata)
    except OSError as error:
        raise RunError(f"can't write {file}: {error.strerror}") from error
