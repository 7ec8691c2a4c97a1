"""A run as a callable class for `map_batches` of Ray Data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow

from zoo.data.sample import Sample
from zoo.errors import DataError
from zoo.io.text import listed
from zoo.prediction.engines import choose_engine
from zoo.prediction.inputs import Item
from zoo.prediction.rows import Layout, as_row, table_of
from zoo.runs.read import load
from zoo.runs.stream import predictions

#: Columns that may hold the images, the first of them that a batch has.
COLUMNS = ("bytes", "image", "path")

#: Options of what computes.
_COMPUTING = ("engine", "precision", "batch_size")

#: A batch of Ray Data: arrays by column, or an Arrow table.
Batch: TypeAlias = Mapping[str, Any] | pyarrow.Table


class Predictor:
    """Classifies the images of batches; an actor of Ray Data loads the run once.

        dataset = ray.data.read_binary_files("photos", include_paths=True)
        dataset = dataset.map_batches(
            zoo.ray.Predictor,
            fn_constructor_args=["runs/photos-resnet18"],
            compute=ray.data.ActorPoolStrategy(size=2),
            batch_size=64,
        )
        dataset.write_parquet("predictions")

    It is called with a dict of arrays (the default `batch_format`) or an Arrow table, and returns
    an Arrow table with the columns of the Parquet files of `zoo predict`, and their types, after
    the other columns of the batch. Images are in a column of

    - encoded images (JPEG, PNG ...) as bytes, or as structs with a field `bytes`,
    - images as arrays, (H, W), (H, W, 3) or (H, W, 4) uint8, or
    - paths, which must be those of the machine that the actor is on.

    The column of images is left out of the result, whose column `path` is that of the batch, or
    null if there is none. An image that can't be read has an error in its row.

    Args:
        run: The run folder or its model.safetensors, on a path that all machines see.
        column: The column of images. Default: the first one in the batch of `bytes`, `image` and
            `path`.
        device: Where to compute: `auto`, `cpu`, `cuda` or `mps`. Ray hides GPUs from actors that
            don't reserve one with `num_gpus`.
        workers: Number of threads that decode; reserve as many processors with `num_cpus`.
        allow_network: Whether paths may be URLs and other addresses.
        **options: `engine` (default: torch), `precision` (`fp32`, the default, `bf16`, `fp16` or
            `auto`) and `batch_size` (images per forward pass; default: 32 on a CPU and 128 on a
            GPU, fewer if they are large), as in `zoo predict`; `top_k`, `threshold`,
            `min_confidence`, `max_error`, `set_coverage` and `tta`, as in `Run.predict`. Without
            `top_k`, rows have the probabilities of all classes, in columns of their names.

    Raises:
        RunError: There is no run, the file is damaged, or the engine can't compute on the device.
        PluginError: The plugin of the backbone, or the engine, is not installed.
        DataError: An argument is out of its range, or the run does not know what is asked.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        column: str | None = None,
        device: str = "auto",
        workers: int = 1,
        allow_network: bool = False,
        **options: Any,
    ) -> None:
        self._run = load(run, device=device)
        names = self._run.class_names
        computing = {name: options.pop(name) for name in _COMPUTING if name in options}
        top_k = options.get("top_k")
        self._asked = self._run.asked(
            **{**options, "top_k": len(names) if top_k is None else top_k}
        )
        self._engine = choose_engine(
            self._run, computing.pop("engine", "torch"), **computing
        ).engine
        self._column, self._workers, self._allow_network = column, workers, allow_network
        self.layout = Layout(
            class_names=names,
            several=not self._run.task.exclusive,
            sets=options.get("set_coverage") is not None,
            top_k=top_k,
            tta=options.get("tta"),
        )

    def __call__(self, batch: Batch) -> pyarrow.Table:
        """Classify the images of a batch.

        Raises:
            DataError: The batch has no column of images, or a column that the result has too.
        """
        given = _columns(batch)
        column = self._column or next((name for name in COLUMNS if name in given), None)
        if column is None or column not in given:
            raise DataError(
                f"no column {column or ' or '.join(COLUMNS)} in {listed(given)}",
                hint="name that of the images by `column`",
            )
        values = _values(batch, column)
        names = _values(batch, "path") if "path" in given else values
        names = [name if isinstance(name, str) else None for name in names]
        images = map(self._image, values, names)
        made = table_of(self.rows(zip(names, images, strict=True)), self.layout)
        kept = [name for name in given if name not in (column, "path")]
        if both := [name for name in kept if name in made.column_names]:
            raise DataError(
                f"columns of the batch that the predictions have too: {listed(both)}",
                hint="rename or drop them before",
            )
        arrays = [_as_arrow(batch, name) for name in kept]
        return pyarrow.table(
            [*arrays, *made.columns],
            names=[*kept, *made.column_names],
            metadata=made.schema.metadata,
        )

    def rows(self, images: Iterable[tuple[str | None, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the row of each image, as `zoo.prediction.rows.as_row` returns it.

        Args:
            images: (name, image) pairs, where an image is as in `Run.predict`.
        """
        given = list(images)
        found = predictions(
            self._run,
            ((Path(name) if name else None, image) for name, image in given),
            self._asked,
            self._engine,
            workers=self._workers,
        )
        for (name, _), each in zip(given, found, strict=True):
            yield as_row(name, each, self.layout)

    def _image(self, value: Any, name: str | None) -> Any:
        if isinstance(value, Mapping):
            value = value.get("bytes")
        if isinstance(value, bytes) and name:
            return Sample(name=name, labels=(), load=partial(bytes, value))
        if isinstance(value, str) and self._allow_network:
            return Item(value).image
        return value


def _columns(batch: Batch) -> list[str]:
    return list(batch.column_names if isinstance(batch, pyarrow.Table) else batch)


def _values(batch: Batch, name: str) -> list[Any]:
    """Return the values of a column, as objects of Python or arrays."""
    values = batch[name]
    return values.to_pylist() if isinstance(values, pyarrow.ChunkedArray) else list(values)


def _as_arrow(batch: Batch, name: str) -> Any:
    """Return a column of a batch as Arrow's array.

    Raises:
        DataError: It can't be one.
    """
    values = batch[name]
    try:
        if isinstance(values, pyarrow.ChunkedArray):
            return values
        if isinstance(values, np.ndarray) and values.ndim > 1:
            contiguous = np.ascontiguousarray(values)
            return pyarrow.FixedShapeTensorArray.from_numpy_ndarray(contiguous)
        return pyarrow.array(values)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"column {name} can't be kept: {error}", hint="drop it before, or use batches of Arrow"
        ) from error
