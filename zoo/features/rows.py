"""Outputs (rows) of the frozen part of a network for images: computed once, cached, read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from zoo.cache import Store, derived_key
from zoo.data.dataset import ImageDataset, Index, view_of
from zoo.errors import CacheError
from zoo.events import Listener, Note, Progress
from zoo.machine.memory import in_parts
from zoo.machine.processes import decide_on_main, together
from zoo.runs.inference import CPU_BATCH

#: Number of images decoded, computed and written to disk together.
CHUNK = 64

#: Images per forward pass on a GPU.
_GPU_BATCH = 64

#: Maps pixels (N, C, H, W) uint8 of a batch to rows (N, ...) on the device.
Compute = Callable[[Tensor], Tensor]


class CachedDataset(Dataset[Any]):  # torch types a loader's batches as dataset items
    """Dataset of cached rows in place of images: (row, target) of the view used in an epoch."""

    def __init__(self, images: ImageDataset, store: Store) -> None:
        self.images = images
        self.store = store

    def __len__(self) -> int:
        return len(self.images)

    @staticmethod
    def stack(rows: Sequence[np.ndarray]) -> Tensor:
        """Stack rows into a batch (N, ...)."""
        # A copy, because torch aligns memory and numpy does not: the rounding of a matrix
        # multiplication may depend on the alignment of its input.
        return torch.from_numpy(np.stack(rows)).clone()

    def __getitem__(self, index: Index) -> tuple[np.ndarray, Tensor]:
        epoch, position = index
        key = row_key(self.images, (view_of(epoch, self.images.views), position))
        return self.store.get(key), self.images.targets[position]


def rows_at_a_time(device: torch.device) -> int:
    """Return the number of images per forward pass."""
    return CPU_BATCH if device.type == "cpu" else _GPU_BATCH


def views_of(images: ImageDataset, views: Iterable[int] = (0,)) -> list[Index]:
    """Return the indices of these views of every image; view 0 is the image not augmented."""
    return [(view, position) for view in views for position in range(len(images))]


def row_key(images: ImageDataset, index: Index) -> bytes:
    """Return the cache key of a view of a sample, from its content and its augmentation."""
    view, position = index
    content = images.decoded.keys[position]
    if images.augment is None:
        return content
    name = images.decoded.samples[position].name
    return derived_key(content, "augmented", images.seed, view, name)


def fill(
    images: ImageDataset,
    indices: Sequence[Index],
    compute: Compute,
    store: Store,
    *,
    device: torch.device,
    what: str,
    listen: Listener,
) -> int:
    """Compute and store the missing rows of these views; returns how many were missing.

    Raises:
        CacheError: The rows can't be written, or another process has started writing meanwhile.
        TrainingError: Memory is too small for one image.
    """
    missing = {k: n for k, n in _one_each(images, indices).items() if k not in store}
    done = 0
    for keys, rows in _computed(images, missing, compute, device, what, listen):
        _keep(keys, rows, store)
        if store.blocked is not None:
            raise CacheError(store.blocked)
        done += len(keys)
        listen(Progress(what=what, done=done, total=len(missing)))
    return done


def collect(
    images: ImageDataset,
    indices: Sequence[Index],
    compute: Compute,
    store: Store | None,
    *,
    accelerator: Accelerator,
    what: str,
    listen: Listener,
) -> tuple[Tensor, int]:
    """Read rows (N, ...) float32 of these views from the store, or compute and store them.

    With several processes, each computes a share and gets all rows; only the first uses the store.

    Returns:
        The rows, and how many of them were not in the store.

    Raises:
        DataError: A photo can no longer be read, or has changed.
        TrainingError: Memory is too small for one image.
    """
    wanted = _one_each(images, indices)
    missing = decide_on_main(
        accelerator, lambda: [key for key in wanted if store is None or key not in store]
    )
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    computed: dict[bytes, Tensor] = {}
    keeping = store
    share = {key: wanted[key] for key in mine}

    def compute_share() -> None:
        nonlocal keeping
        for keys, rows in _computed(images, share, compute, accelerator.device, what, listen):
            computed.update(zip(keys, rows, strict=True))
            keeping = _try_to_store(keys, rows, keeping, what, listen)
            listen(Progress(what=what, done=len(computed), total=len(mine)))

    together(compute_share)
    if accelerator.num_processes > 1 and missing:
        # One tensor: a single row is a view, which would be pickled with its entire chunk.
        rows = torch.stack(list(computed.values())) if computed else torch.empty(0)
        parts = gather_object([(list(computed), rows)])
        computed = {key: row for keys, rows in parts for key, row in zip(keys, rows, strict=True)}
        _try_to_store(list(computed), torch.stack(list(computed.values())), keeping, what, listen)
    found = decide_on_main(
        accelerator,
        lambda: {} if store is None else {k: store.get(k) for k in wanted if k not in computed},
    )
    row_of = computed | {key: torch.from_numpy(row.copy()) for key, row in found.items()}
    keys = [row_key(images, index) for index in indices]
    return torch.stack([row_of[key] for key in keys]), sum(key in computed for key in keys)


def _one_each(images: ImageDataset, indices: Iterable[Index]) -> dict[bytes, Index]:
    """Return the first view of each key; equal images without augmentation share a key."""
    found: dict[bytes, Index] = {}
    for index in indices:
        found.setdefault(row_key(images, index), index)
    return found


def _computed(
    images: ImageDataset,
    missing: Mapping[bytes, Index],
    compute: Compute,
    device: torch.device,
    what: str,
    listen: Listener,
) -> Iterator[tuple[list[bytes], Tensor]]:
    size = rows_at_a_time(device)

    def in_full(pixels: Tensor, size: int) -> Tensor:
        """Compute the rows of a batch after padding it to `size`.

        Other sizes round differently, and a row must not depend on which others were missing.
        """
        count = len(pixels)
        padded = pad(pixels, (0, 0, 0, 0, 0, 0, 0, size - count))
        return compute(padded)[:count].float().cpu()

    def say(text: str) -> None:
        listen(Note(text=f"{text}; their last digits may round otherwise", warning=True))

    wanted = list(missing)
    for start in range(0, len(wanted), CHUNK):
        keys = wanted[start : start + CHUNK]
        pixels = images.batch([missing[key] for key in keys])
        rows, size = in_parts(in_full, pixels, size, what=what, device=device, say=say)
        yield keys, rows


def _keep(keys: Sequence[bytes], rows: Tensor, store: Store) -> None:
    with np.errstate(over="ignore"):
        kept = rows.numpy().astype(store.dtype, copy=False)
    if store.dtype == np.float16 and not np.isfinite(kept).all():
        raise CacheError("some values exceed the range of fp16", hint="use `cache_dtype=fp32`")
    store.append(zip(keys, kept, strict=True))


def _try_to_store(
    keys: Sequence[bytes], rows: Tensor, store: Store | None, what: str, listen: Listener
) -> Store | None:
    """Store rows, and return the store; warn and return None once it can't be written."""
    if store is None:
        return None
    try:
        _keep(keys, rows, store)
    except CacheError as error:
        listen(Note(text=f"{what} are not cached any further: {error}", warning=True))
        return None
    return store
