"""Progress of a long computation on stderr: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.cli.tables import plain_console
from zoo.cli.words import echo
from zoo.io.text import count

#: Seconds between two lines.
EVERY = 60.0


class ImageProgress:
    """Progress over images; a context manager, which removes the bar at its end.

    Args:
        total: Number of images.
        done: Number of images that were done before.
        bar: Whether a bar may be shown: not while other lines are printed on the terminal.
    """

    def __init__(self, total: int, *, done: int = 0, bar: bool = True) -> None:
        self._total, self._first, self._done = total, done, done
        console = plain_console(stderr=True)
        self._lines = not console.is_terminal
        self._started = self._said = time.monotonic()
        self._bar = Progress(
            TextColumn("predicting"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=self._lines or not bar,
        )
        self._task = self._bar.add_task("", total=total, completed=done, rate="")

    def __enter__(self) -> ImageProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Count another image."""
        self._done += 1
        if not self._bar.disable:
            self._bar.update(self._task, completed=self._done, rate=f"{self._rate():.0f} images/s")
        elif self._lines and time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            left = (self._total - self._done) / self._rate()
            echo(
                f"{self._done:,} of {count(self._total, 'image')}, {self._rate():.3g} images/s, "
                f"{_duration(left)} left",
                err=True,
            )

    def _rate(self) -> float:
        return (self._done - self._first) / max(time.monotonic() - self._started, 1e-6)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
