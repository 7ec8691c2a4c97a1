"""Plot of the accuracy of compared backbones against their speed."""

from __future__ import annotations

import math
from pathlib import Path

from zoo.errors import RunError
from zoo.io.text import printable
from zoo.pipeline.compare import Comparison
from zoo.tasks import metric_label

#: Size of the figure in inches.
_SIZE = (7.0, 4.5)


def plot_comparison(comparison: Comparison, file: Path) -> None:
    """Write an SVG file with the metric of each backbone, its 95 % interval and its speed.

    Those that were not measured are left out. The same comparison gives the same file.

    Raises:
        RunError: The file can't be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasSVG(figure)
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
    try:
        with mpl.rc_context({"svg.hashsalt": "zoo", "svg.fonttype": "none"}):
            figure.savefig(file, format="svg", metadata={"Date": None})
    except OSError as error:
        raise RunError(f"can't write {file}: {error.strerror}") from error
