"""Progress of a long computation: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.cli.tables import plain_console
from zoo.cli.words import echo, with_flags
from zoo.events import Note
from zoo.events import Progress as Done
from zoo.io.text import count

#: Seconds between two lines.
EVERY = 60.0


def progress_bar(console: Console, *, with_rate: bool = True, disable: bool = False) -> Progress:
    """Return a bar that counts images and is removed at its end; disabled outside a terminal.

    With `with_rate`, it has the field `rate` and the remaining time.
    """
    rate = (TextColumn("{task.fields[rate]}"), TextColumn("left"), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        *(rate if with_rate else ()),
        console=console,
        transient=True,
        disable=disable or not console.is_terminal,
    )


class ProgressListener:
    """Prints notes and a progress bar on stderr; a context manager, which removes the bar."""

    def __init__(self) -> None:
        self._bar = progress_bar(plain_console(stderr=True), with_rate=False)
        self._task = self._bar.add_task("", total=None, visible=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: object) -> None:
        """Show an event."""
        match event:
            case Done():
                self._bar.update(
                    self._task,
                    visible=event.done < event.total,
                    description=event.what,
                    completed=event.done,
                    total=event.total,
                )
            case Note(detail=False):
                echo(f"{'! ' if event.warning else ''}{with_flags(event.text)}", err=True)


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
        self._bar = progress_bar(console, disable=not bar)
        self._task = self._bar.add_task("predicting", total=total, completed=done, rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, images: int = 1) -> None:
        """Count another image, or several."""
        self._done += images
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
