"""Opening the caches that a run uses, and reserving space in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import nn

from zoo import plugins
from zoo.backbone import Backbone, OptionValue
from zoo.cache import Kind, Store, open_store
from zoo.data.dataset import ImageDataset, Index
from zoo.data.prepare import Prepare
from zoo.data.transforms import Transform
from zoo.engines.choice import named
from zoo.engines.converted import versions_of
from zoo.events import Listener, Note
from zoo.features.rows import row_key
from zoo.models.head import in_head
from zoo.models.replay import Boundary
from zoo.recipe import Recipe
from zoo.runs.write import versions
from zoo.weights import tensors_sha256

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_GIGABYTE = 10**9

#: Assumed ratio of width to height of photos, to estimate their size.
_ASPECT = 1.5

#: Libraries whose version may affect the outputs of a network.
_DECIDING = ("torch", "torchvision", "timm", "transformers")


def backbone_sha256(model: nn.Module, backbone: Backbone) -> str:
    """Compute the SHA-256 of all tensors outside the head."""
    return tensors_sha256(
        {
            name: tensor.cpu()
            for name, tensor in model.state_dict().items()
            if not in_head(name, backbone.head_paths)
        }
    )


@dataclass(frozen=True)
class FrozenPart:
    """Part of a network whose output is cached.

    Attributes:
        backbone: The backbone it belongs to.
        weights_sha256: From `backbone_sha256`.
        boundary: Where the output is read.
        options: Options that the backbone is built with.
        precision: Precision of its forward pass.
        engine: What computes it: `torch`, or for features the runtime of an exporter.
    """

    backbone: Backbone
    weights_sha256: str
    boundary: Boundary
    options: Mapping[str, OptionValue]
    precision: str = "fp32"
    engine: str = "torch"

    @classmethod
    def of(
        cls,
        model: nn.Module,
        backbone: Backbone,
        boundary: Boundary,
        options: Mapping[str, OptionValue],
        engine: str = "torch",
    ) -> FrozenPart:
        """Describe the frozen part of a model, in full precision."""
        weights = backbone_sha256(model, backbone)
        return cls(backbone, weights, boundary, options, engine=engine)

    def engine_about(self) -> dict[str, Any]:
        """Return what the outputs depend on if another engine than torch computes them."""
        if self.engine == "torch":
            return {}
        _, exporter = named(self.engine)
        return {"engine": {"name": self.engine, "versions": versions_of(exporter)}}


class Stores(ExitStack):
    """Stores of a stage, each opened only once, because a store opened again is read-only.

    Args:
        recipe: Limits the size of the caches.
        listen: Receives a `Note` on why something is not cached.
    """

    def __init__(self, recipe: Recipe, listen: Listener) -> None:
        super().__init__()
        self.listen = listen
        self._recipe = recipe
        self._opened: dict[Path, Store] = {}

    def open(self, kind: Kind, about: Mapping[str, Any], dtype: DTypeLike) -> Store:
        """Open a store as `open_store` does; it is closed at the end of the stage."""
        store = self.enter_context(open_store(kind, about, dtype=dtype))
        return self._opened.setdefault(store.path, store)

    def images(self, prepare: Prepare, keys: Sequence[bytes]) -> Store | None:
        """Open a store for decoded images; None if they don't fit."""
        if prepare.cover is None:
            pixels = math.prod(prepare.preprocess.height_width)
        else:
            pixels = math.ceil(math.prod(prepare.cover) * _ASPECT)
        return self._with_room("images", prepare.about(), np.uint8, keys, 3 * pixels)

    def rows(
        self,
        kind: Literal["features", "activations"],
        part: FrozenPart,
        transform: Transform,
        wanted: Iterable[tuple[ImageDataset, Sequence[Index]]],
    ) -> Store | None:
        """Open a store for the outputs of the frozen part of a network; None if they don't fit.

        Args:
            kind: Features are stored in float32, activations in the recipe's `cache_dtype`.
            part: The part that computes the outputs.
            transform: Transform of all of the images.
            wanted: The images, and which of their views.
        """
        preprocess = transform.prepare.preprocess
        about = {
            "backbone": part.backbone.name,
            "options": dict(part.options),
            "weights": part.weights_sha256,
            "boundary": part.boundary.name,
            "image_size": list(part.boundary.image_size),
            "device": self._recipe.device,
            "precision": part.precision,
            **part.engine_about(),
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "images": transform.prepare.about(),
            "augment": transform.about,
            "versions": {
                **{k: v for k, v in versions().items() if k in _DECIDING},
                **plugins.versions_behind(part.backbone.name.partition("/")[0]),
            },
        }
        halved = kind == "activations" and self._recipe.cache_dtype == "fp16"
        dtype = np.float16 if halved else np.float32
        row_bytes = math.prod(part.boundary.shape) * np.dtype(dtype).itemsize
        keys = [row_key(images, index) for images, indices in wanted for index in indices]
        return self._with_room(kind, about, dtype, keys, row_bytes)

    def _with_room(
        self,
        kind: Kind,
        about: Mapping[str, Any],
        dtype: DTypeLike,
        keys: Iterable[bytes],
        row_bytes: int,
    ) -> Store | None:
        cache_size = self._recipe.cache_size
        if not cache_size:
            return None
        store = self.open(kind, about, dtype)
        needed = row_bytes * sum(key not in store for key in set(keys))
        if not needed:
            return store
        if store.blocked is not None:
            self.listen(Note(text=f"{kind} are not cached in {store.path}: {store.blocked}"))
        elif store.reserve(needed, int(cache_size * _GIGABYTE)):
            return store
        else:
            self.listen(
                Note(
                    text=f"{kind} are not cached: {needed / _GIGABYTE:.3g} GB more fit neither "
                    f"into `cache_size={cache_size:g}` GB nor, with a margin, onto the disk"
                )
            )
        return None
