"""Classify the images of many requests in batches: a pool that decodes, a thread that computes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zoo.report.thumbnails import heat_maps
from zoo.runs.read import Asked, Prediction, Run
from zoo.serve import Settings
from zoo.serve.body import RefusedError

#: Images decoded at once; more would only use more memory, because the network needs cores too.
DECODERS = 2

#: Pixels of the longer side of a heat map, at most.
_SIDE = 448


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prediction, with a heat map as `data:` URL if it was asked for and there is one."""

    prediction: Prediction
    heat: str = ""


@dataclass(frozen=True, kw_only=True)
class _Job:
    pixels: NDArray[np.uint8]
    heat: bool
    answer: Future[Answer]
    since: float = field(default_factory=time.monotonic)


class Engine:
    """Decodes and classifies images.

    Each image has a place from `reserve` until it is answered or given back, and places are
    limited, so that memory is.
    """

    def __init__(
        self, run: Run, asked: Asked, settings: Settings, batch_done: Callable[[int], None]
    ) -> None:
        self.run, self.asked, self.settings = run, asked, settings
        self._batch_done = batch_done
        self._places = 0
        self._queue: deque[_Job] = deque()
        self._closed = False
        self._changed = threading.Condition()
        self.pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._thread = threading.Thread(target=self._work, name="classify", daemon=True)

    def start(self) -> None:
        """Start the thread that computes."""
        self._thread.start()

    def close(self) -> None:
        """Finish all images that were accepted, and end the threads."""
        self.pool.shutdown()
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether images are being classified."""
        return self._thread.is_alive()

    @property
    def places(self) -> int:
        """Number of images that have a place."""
        return self._places

    def reserve(self, images: int) -> None:
        """Take places for images.

        Raises:
            RefusedError: There are not enough.
        """
        with self._changed:
            if self._places + images > self.settings.queue:
                raise RefusedError(503, "the service is busy", hint="try again in a second")
            self._places += images

    def give_back(self, images: int) -> None:
        """Give places back of images that were not passed to `classify`."""
        with self._changed:
            self._places -= images
            # The rest of a batch may have waited for these.
            self._changed.notify()

    def classify(self, content: bytes, *, heat: bool) -> Future[Answer]:
        """Classify an encoded image that has a place, which is given back when it is done.

        The result raises a `DataError` if it can't be decoded.
        """
        answer: Future[Answer] = Future()
        self.pool.submit(self._decode, content, heat, answer)
        return answer

    def _decode(self, content: bytes, heat: bool, answer: Future[Answer]) -> None:
        try:
            if answer.cancelled():
                self.give_back(1)
                return
            pixels = self.run.prepare(content, max_pixels=self.settings.max_pixels)
        except BaseException as error:  # noqa: BLE001 - raised where the answer is awaited
            self.give_back(1)
            if answer.set_running_or_notify_cancel():
                answer.set_exception(error)
            return
        with self._changed:
            self._queue.append(_Job(pixels=pixels, heat=heat, answer=answer))
            self._changed.notify()

    def _work(self) -> None:
        while jobs := self._next_batch():
            wanted = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            # Places are given back first: who has an answer may send the next image.
            try:
                answers = self._compute(wanted)
            except BaseException as error:  # noqa: BLE001 - raised where the answers are awaited
                self.give_back(len(jobs))
                for job in wanted:
                    job.answer.set_exception(error)
            else:
                self.give_back(len(jobs))
                for job, answer in zip(wanted, answers, strict=True):
                    job.answer.set_result(answer)

    def _next_batch(self) -> list[_Job]:
        """Wait for the next batch; it is empty when the engine is closed and nothing is left."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return []
                self._changed.wait()
            end = self._queue[0].since + self.settings.max_latency
            most = self.settings.batch_size
            # Without other images on their way there is nothing to wait for.
            while len(self._queue) < min(most, self._places):
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return [self._queue.popleft() for _ in range(min(most, len(self._queue)))]

    def _compute(self, jobs: Sequence[_Job]) -> list[Answer]:
        if not jobs:
            return []
        pixels = [job.pixels for job in jobs]
        predictions = self.run.predict_prepared(pixels, [None] * len(jobs), self.asked)
        shown = [n for n, job in enumerate(jobs) if job.heat]
        classes = [self.run.class_names.index(predictions[n].label) for n in shown]
        maps = heat_maps(self.run, [pixels[n] for n in shown], classes, side=_SIDE)
        self._batch_done(len(jobs))
        heat = dict(zip(shown, maps, strict=True))
        return [Answer(prediction=p, heat=heat.get(n, "")) for n, p in enumerate(predictions)]
