"""DecodedImages of samples: decoded once and kept in a store, or decoded each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from zoo.cache import Store, image_key
from zoo.data.files import fingerprint
from zoo.data.image import image_from_bytes
from zoo.data.prepare import Prepare
from zoo.data.sample import Sample

#: DecodedImages decoded between two writes.
_BATCH = 64


class DecodedImages:
    """The base (H, W, 3) uint8 of each sample, by position.

    A base is the same whether it comes from the store or from the image.

    Args:
        samples: Whose images.
        prepare: Makes a base of an image.
        store: Keeps bases that `prepare` made; None: each is made whenever it is asked for.
        keys: With a store: the key of each sample's content (`content_keys`).
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
        """Several bases; those that must be made are made in threads."""
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
        """Positions of the samples whose base the store lacks, one for each content."""
        if self.store is None:
            return []
        first = {key: position for position, key in reversed(list(enumerate(self.keys)))}
        return sorted(position for key, position in first.items() if key not in self.store)

    def fill(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Make the missing bases, in threads, and keep them; without a store do nothing.

        Args:
            progress: Told (done, all) of the missing ones as they are kept.

        Raises:
            DataError: An image can't be read any more, or has changed.
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
        image = image_from_bytes(
            sample.read(),
            sample.where,
            decode_at=self.prepare.decode_at,
            value_range=self.prepare.preprocess.value_range,
        )
        return self.prepare(image)


def content_keys(samples: Sequence[Sample]) -> list[bytes]:
    """16 bytes for each sample: BLAKE2b of its image file's content.

    Raises:
        DataError: A file can't be read.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_content_key, samples))


def _content_key(sample: Sample) -> bytes:
    if sample.content is not None:
        return sample.content.key
    return fingerprint(sample.file).key if sample.file else image_key(sample.read())
