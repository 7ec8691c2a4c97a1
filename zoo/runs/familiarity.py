"""Whether an image is like those that a classifier was trained on, by its nearest neighbours.

The distance is that of Sun et al. (2022): from the image's features, scaled to unit length, to
those of its k-th nearest training image, as 1 - cosine. Mahalanobis distances, energies and
residuals of a PCA were measured beside it; see docs/confidence.md.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from zoo.errors import RunError
from zoo.io.text import count

#: Share of unfamiliar images among those that are like the val images.
FALSE_ALARMS = 0.05

#: Maximum number of training images that are kept: as many as take a few seconds on a CPU, or a few
#: of each class.
_IMAGES, _IMAGES_OF_CLASS, _MOST_IMAGES = 300, 2, 2000

#: Maximum bytes that are stored, before base64 makes four of three.
_MOST_BYTES = 700_000

#: Maximum number of dimensions of the subspace in which the training images are stored.
_DIMENSIONS = 128

#: Neighbour to which the distance is measured, where classes have enough images.
_NEIGHBOUR = 5

#: Fewest held-out images that have a quantile at `1 - FALSE_ALARMS`.
_ENOUGH = math.ceil(1 / FALSE_ALARMS) - 1

#: With fewer val images, the limit is at least this many times their mean distance.
_MARGIN = 1.5

#: Maximum width of features.
_WIDEST = 65_536

_Text = Annotated[str, Field(max_length=2**20)]


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """Features of training images in a small subspace, and the distance up to which is familiar.

    Attributes:
        width: Number of features of an image.
        basis: (width, dimensions) float16, little-endian, in base64: orthonormal columns.
        rows: (images, dimensions) float16, likewise: unit features of the images, times `basis`.
        neighbour: k: the distance is that to the k-th nearest of the images.
        limit: Largest familiar distance, above 0 and up to 2.
        images: Number of held-out images that the limit comes from; 0: only the training images.
    """

    width: Annotated[int, Field(ge=1, le=_WIDEST)]
    basis: _Text
    rows: _Text
    neighbour: Annotated[int, Field(ge=1, le=_NEIGHBOUR)]
    limit: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)]
    images: Annotated[int, Field(ge=0, le=2**40)]

    def __post_init__(self) -> None:
        basis, rows = self._arrays
        if len(rows) < self.neighbour:
            raise ValueError(f"{count(len(rows), 'row')} without neighbour {self.neighbour}")
        for name, array in (("basis", basis), ("rows", rows)):
            # Rounding makes the numbers of a unit vector a little larger than 1 at most.
            if not bool(np.isfinite(array).all()) or float(np.abs(array).max()) > 1.01:
                raise ValueError(f"{name} has numbers beyond -1 to 1")

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        basis = _decoded(self.basis, "basis")
        dimensions, rest = divmod(len(basis), self.width)
        if rest or not dimensions:
            raise ValueError(f"basis has {len(basis)} numbers for {self.width} features")
        rows = _decoded(self.rows, "rows")
        if len(rows) % dimensions:
            raise ValueError(f"rows has {len(rows)} numbers for {dimensions} dimensions")
        return basis.reshape(self.width, dimensions), rows.reshape(-1, dimensions)

    def distances(self, features: Tensor) -> Tensor:
        """Compute the distances (N,) float32 of features (N, width), 1 at the limit.

        Raises:
            RunError: The features have another width.
        """
        if features.shape[1] != self.width:
            raise RunError(
                f"the run's record of its training images has {self.width} features for each, "
                f"its network {features.shape[1]}"
            )
        basis, rows = (torch.from_numpy(a.astype(np.float32)) for a in self._arrays)
        return _distances(features, basis, rows, self.neighbour) / self.limit


def most_images(num_classes: int) -> int:
    """Return the maximum number of training images for `fit_familiarity`."""
    return min(_MOST_IMAGES, max(_IMAGES, _IMAGES_OF_CLASS * num_classes))


def fit_familiarity(train: Tensor, held_out: Tensor, num_classes: int) -> Familiarity:
    """Record what is familiar to a classifier.

    The limit is the 95 % quantile, with the correction of conformal prediction for their number, of
    the distances of the held-out images and of the training images, each of these to the others.
    Features of training images may lie closer together than others, so their distances are first
    scaled to the mean of the held-out ones. Fewer than 19 held-out images don't show this mean;
    then the limit is the largest of their distances, and at least 1.5 times the mean. Without any,
    the distances of the training images take their place.

    Args:
        train: (N, width) float32, features of `most_images` training images at most.
        held_out: (M, width) float32, features of images that the classifier was not trained on.
        num_classes: Number of classes. The neighbour is nearer if classes have few images.
    """
    count, width = train.shape
    neighbour = max(1, min(_NEIGHBOUR, count // num_classes // 2))
    unit = normalize(train.double(), dim=1)
    dimensions = min(_DIMENSIONS, width, count, max(1, _MOST_BYTES // 2 // (width + count)))
    directions = torch.linalg.svd(unit, full_matrices=False).Vh[:dimensions].T
    basis = directions.half().float()
    rows = (unit @ directions).half().float()
    # The nearest of a training image is itself.
    among = _distances(train, basis, rows, min(neighbour + 1, count)).double()
    found = _distances(held_out, basis, rows, neighbour).double() if len(held_out) else among
    if len(found) >= _ENOUGH:
        scale = found.mean() / among.mean().clamp_min(1e-9)
        ordered = torch.cat([found, among * scale]).sort().values
        rank = math.ceil((len(ordered) + 1) * (1 - FALSE_ALARMS) - 1e-9)
        limit = float(ordered[min(rank, len(ordered)) - 1])
    else:
        limit = max(float(found.max()), _MARGIN * float(found.mean()))
    return Familiarity(
        width=width,
        basis=_encoded(basis),
        rows=_encoded(rows),
        neighbour=neighbour,
        # Distances of equal images differ from 0 by rounding.
        limit=round(min(max(limit, 1e-3), 2.0), 6),
        images=len(held_out),
    )


def _distances(features: Tensor, basis: Tensor, rows: Tensor, neighbour: int) -> Tensor:
    similarity = normalize(features, dim=1) @ basis @ rows.T
    return 1 - similarity.topk(neighbour, dim=1).values[:, -1]


def _encoded(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f2").tobytes()).decode("ascii")


def _decoded(text: str, name: str) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2")
    except ValueError as error:
        raise ValueError(f"{name} is not float16 in base64") from error
