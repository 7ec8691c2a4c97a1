"""What a model gets wrong on a split: the event of a run, and its pictures for loggers."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.decoded import DecodedImages
from zoo.data.sample import Sample
from zoo.data.transforms import eval_transform
from zoo.errors import DataError
from zoo.events import Mistake, Mistakes
from zoo.io.text import clip, printable
from zoo.report.thumbnails import SIDE, shown
from zoo.runs.read import Run
from zoo.runs.scores import Columns, Scores
from zoo.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Maximum number of images.
MOST_SHOWN = 16

#: Maximum number of classes of a confusion matrix.
MOST_CLASSES = 1000

#: Maximum numbers of classes whose names, and whose counts, are written into the drawn matrix.
_MOST_NAMED, _MOST_COUNTED = 60, 25

#: Images in a row of the drawn mistakes; pixels per inch.
_COLUMNS, _DPI = 4, 100


def mistakes(run: Run, scores: Scores, columns: Columns) -> Mistakes:
    """Return what a run gets wrong on a split.

    Args:
        run: The run.
        scores: Its scores of the split.
        columns: Its columns of predictions.parquet, as from `rows_of`.
    """
    wrong = np.flatnonzero(~np.asarray(columns["correct"], dtype=bool))
    sure = np.asarray(columns["probability"])
    ranked = sorted(wrong.tolist(), key=lambda n: -float(sure[n]))[:MOST_SHOWN]
    return Mistakes(
        split=scores.split,
        class_names=run.class_names,
        confusion=_confusion(scores.logits, scores.targets, run.task),
        total=len(wrong),
        shown=tuple(
            Mistake(
                name=scores.samples[n].name,
                label=_text(columns["label"][n]),
                predicted=_text(columns["predicted"][n]),
                probability=float(sure[n]),
                image=_png(run, scores.samples[n]),
            )
            for n in ranked
        ),
    )


def pictures(event: Mistakes) -> dict[str, Image.Image]:
    """Draw the confusion matrix and the mistakes of an event.

    Returns:
        RGB images: `confusion`, unless it is empty, and `mistakes`, unless there are none.
    """
    found = {}
    if event.confusion:
        side = min(12.0, 2.5 + 0.4 * len(event.class_names))
        with _figure(side + 1, side) as figure:
            _draw_confusion(figure.add_subplot(), event)
            found["confusion"] = _image(figure)
    if event.shown:
        rows = math.ceil(len(event.shown) / _COLUMNS)
        with _figure(2 * _COLUMNS, 2.4 * rows) as figure:
            places = figure.subplots(rows, _COLUMNS, squeeze=False).flatten().tolist()
            _draw_mistakes(places, event.shown)
            found["mistakes"] = _image(figure)
    return found


def _confusion(logits: Tensor, targets: Tensor, task: Task) -> tuple[tuple[int, ...], ...]:
    classes = logits.shape[1]
    if not task.exclusive or classes > MOST_CLASSES:
        return ()
    cells = torch.bincount(targets * classes + task.decide(logits), minlength=classes**2)
    return tuple(map(tuple, cells.view(classes, classes).tolist()))


def _text(label: str | Sequence[str]) -> str:
    return label if isinstance(label, str) else " + ".join(label)


def _png(run: Run, sample: Sample) -> bytes:
    try:
        decoded = DecodedImages([sample], eval_transform(run.info.preprocess).prepare)[0]
    except DataError:
        return b""
    image = shown(decoded)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """Context with a figure of that size in inches, whose texts are shown as they are."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False, "text.usetex": False}), warnings.catch_warnings():
        # Names may have characters that the font lacks.
        warnings.filterwarnings("ignore", "Glyph")
        yield Figure((width, height), dpi=_DPI, layout="constrained")


def _image(figure: Figure) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # Its methods have no types.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _draw_confusion(axes: Axes, event: Mistakes) -> None:
    """Draw the matrix with shares of each row as colours."""
    counts = np.array(event.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(f"{event.split}: {event.total:,} of {counts.sum():,} wrong")
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    if len(counts) <= _MOST_NAMED:
        names = [clip(printable(name), 24) for name in event.class_names]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(counts) <= _MOST_COUNTED:
        for (row, column), number in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{number:,}", ha="center", va="center", color=colour)


def _draw_mistakes(places: Sequence[Axes], chosen: Sequence[Mistake]) -> None:
    for axes in places:
        axes.axis("off")
    for axes, mistake in zip(places, chosen, strict=False):
        title = f"{clip(printable(mistake.label), 22)}\nas {clip(printable(mistake.predicted), 18)}"
        axes.set_title(f"{title} {mistake.probability:.0%}", fontsize=8)
        if mistake.image:
            axes.imshow(np.asarray(Image.open(io.BytesIO(mistake.image)).convert("RGB")))
