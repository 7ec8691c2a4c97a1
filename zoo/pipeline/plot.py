"""Plot of the accuracy of compared backbones against their speed."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import RunError
from zoo.io.text import printable
from zoo.pipeline.compare import Comparison
from zoo.tasks import metric_label

#: Size of the figure in inches.
_SIZE = (7.0, 4.5)


def plot_comparison(comparison: Comparison, file: Path) -> None:
    """Write an SVG file with the metric of each backbone, its 95 % interval and its speed.

    The same comparison gives the same file.

    Args:
        comparison: The comparison; backbones that were not measured are left out.
        file: The file to write.

    Raises:
        RunError: The file can't be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for each in comparison.candidates:
        if each.score is None or each.images_per_second is None:
            continue
        below, above = each.score - (each.low or 0.0), (each.high or 1.0) - each.score
        axes.errorbar(
            [each.images_per_second],
            [100 * each.score],
            yerr=[[100 * below], [100 * above]],
            fmt="o",
            capsize=3,
        )
        axes.annotate(
            # A dollar sign would start a formula.
            printable(each.name).replace("$", r"\$"),
            (each.images_per_second, 100 * each.score),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel(f"images per second ({comparison.device}, forward pass)")
    axes.set_ylabel(f"{metric_label(comparison.metric)} of a probe, % (95 % interval)")
    axes.set_title(f"{comparison.images} images, {comparison.classes} classes", fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.25)
    try:
        with mpl.rc_context({"svg.hashsalt": "zoo", "svg.fonttype": "none"}):
            figure.savefig(file, format="svg", metadata={"Date": None})
    except OSError as error:
        raise RunError(f"can't write {file}: {error.strerror}") from error
