"""Decoded images of samples, cached in a store or decoded on each access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from zoo.cache import Store, image_key
from zoo.data.columns import Columns
from zoo.data.files import fingerprint
from zoo.data.image import image_from_bytes
from zoo.data.prepare import Prepare
from zoo.data.sample import Sample
from zoo.errors import DataError

#: Images decoded between two writes to the store.
_BATCH = 64


class DecodedImages:
    """Decoded and resized images, (H, W, C) uint8, by position of the sample.

    An image is identical whether it comes from the store or is decoded again.

    Args:
        samples: Samples to decode.
        prepare: Resizes and crops an image.
        store: Cache of prepared images; None: images are decoded on each access.
        keys: Content keys of the samples (`content_keys`); required with a store.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        prepare: Prepare,
        *,
        store: Store | None = None,
        keys: Sequence[bytes] = (),
    ) -> None:
        self.samples = samples
        self.prepare = prepare
        self.store = store
        self.keys = keys

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> np.ndarray:
        if self.store is not None:
            try:
                return self.store.get(self.keys[position])
            except KeyError:
                pass
        return self._made(position)

    def many(self, positions: Sequence[int]) -> list[np.ndarray]:
        """Return several images; those that are not cached are decoded in threads."""
        kept = [self.store is not None and self.keys[p] in self.store for p in positions]
        with ThreadPoolExecutor() as pool:
            made = [
                None if there else pool.submit(self._made, position)
                for position, there in zip(positions, kept, strict=True)
            ]
            return [
                self[position] if future is None else future.result()
                for position, future in zip(positions, made, strict=True)
            ]

    def missing(self) -> list[int]:
        """Return positions of samples that the store lacks, one for each distinct content."""
        if self.store is None:
            return []
        first = {key: position for position, key in reversed(list(enumerate(self.keys)))}
        return sorted(position for key, position in first.items() if key not in self.store)

    def fill(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode the missing images in threads and store them; does nothing without a store.

        Args:
            progress: Called with (stored, total) counts of the missing images.

        Raises:
            DataError: An image is no longer readable, or has changed.
        """
        if self.store is None:
            return
        missing = self.missing()
        for start in range(0, len(missing), _BATCH):
            positions = missing[start : start + _BATCH]
            made = self.many(positions)
            self.store.append(zip((self.keys[p] for p in positions), made, strict=True))
            if progress:
                progress(start + len(positions), len(missing))

    def _made(self, position: int) -> np.ndarray:
        sample = self.samples[position]
        preprocess = self.prepare.preprocess
        try:
            image = image_from_bytes(
                sample.read(),
                sample.where,
                decode_at=self.prepare.decode_at,
                value_range=preprocess.value_range,
                channels=preprocess.channels,
            )
        except DataError as error:
            if error.hint is not None or sample.content is None or sample.content.hashed:
                raise
            raise DataError(
                error.text,
                hint="`scan=full` finds such images before training, and leaves them out",
            ) from error
        return self.prepare(image)


def content_keys(samples: Sequence[Sample]) -> Sequence[bytes]:
    """Return the content key of each sample: BLAKE2b (16 bytes) of its image file.

    Of images that have only been listed, it is the key of what was listed (`Fingerprint.hashed`).

    Raises:
        DataError: A file can't be read.
    """
    if isinstance(samples, Columns) and samples.keys is not None:
        return samples.keys
    # A task of a pool costs a hundred times as much as a known key.
    unknown = [sample for sample in samples if sample.content is None]
    with ThreadPoolExecutor() as pool:
        read = pool.map(_content_key, unknown)
        return [next(read) if s.content is None else s.content.key for s in samples]


def _content_key(sample: Sample) -> bytes:
    return fingerprint(sample.file).key if sample.file else image_key(sample.read())
