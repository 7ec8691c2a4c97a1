"""Small images for the report: what the network saw, and where it found its evidence."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from zoo.data.dataset import ImageDataset
from zoo.data.decoded import DecodedImages
from zoo.data.sample import Sample
from zoo.data.transforms import eval_transform, to_input
from zoo.errors import DataError
from zoo.report.attention import attention_maps
from zoo.runs.read import Run

#: Longer side of a thumbnail, in pixels, and its quality as WebP.
SIDE, _QUALITY = 176, 72

#: Images per forward and backward pass.
_BATCH = 8

#: Difference of a probability above which an image is taken for another than the one measured.
_CHANGED = 0.02


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """An image of the report.

    Attributes:
        image: The network's input as `data:` URL; empty if there is none.
        heat: The same in grey, with the map of evidence over it; empty if there is none.
        missing: Why there is no image; empty if there is one.
    """

    image: str = ""
    heat: str = ""
    missing: str = ""


def thumbnails(
    run: Run,
    samples: Sequence[Sample | None],
    classes: Sequence[int],
    measured: Sequence[NDArray[np.float64] | None],
    *,
    heat: int,
    temperature: float = 1.0,
) -> list[Thumbnail]:
    """Make thumbnails of images.

    Args:
        run: The run.
        samples: The images; None for one that is no longer in the dataset.
        classes: Class of each image whose evidence is shown.
        measured: Probabilities (classes,) of each image when the run measured it; None if it has
            not. An image for which the run now computes others has changed.
        heat: Maximum number of images, from the first, with a map of evidence.
        temperature: Divides the logits.
    """
    prepare = eval_transform(run.info.preprocess).prepare
    found: list[Thumbnail] = []
    decoded: dict[int, NDArray[np.uint8]] = {}
    for n, sample in enumerate(samples):
        if sample is None:
            found.append(Thumbnail(missing="no longer in the dataset"))
            continue
        try:
            decoded[n] = DecodedImages([sample], prepare)[0]
            found.append(Thumbnail(image=_url(shown(decoded[n]))))
        except DataError as error:
            found.append(Thumbnail(missing=error.text))
    wanted = [n for n in decoded if n < heat]
    for start in range(0, len(wanted), _BATCH):
        chosen = wanted[start : start + _BATCH]
        logits, maps = _evidence(run, [decoded[n] for n in chosen], [classes[n] for n in chosen])
        now = run.task.probabilities(logits / temperature).double().numpy()
        for k, n in enumerate(chosen):
            before = measured[n]
            if before is not None and np.abs(now[k] - before).max() > _CHANGED:
                found[n] = Thumbnail(missing="the image has changed since it was measured")
            elif maps is not None:
                found[n] = Thumbnail(image=found[n].image, heat=_heat(decoded[n], maps[k]))
    return found


def heat_maps(
    run: Run, decoded: Sequence[NDArray[np.uint8]], classes: Sequence[int], *, side: int = SIDE
) -> list[str]:
    """Return images in grey under their maps of evidence, as `data:` URLs.

    Returns:
        One URL an image, empty if the network has no such map.
    """
    found: list[str] = []
    for start in range(0, len(decoded), _BATCH):
        images = decoded[start : start + _BATCH]
        _, maps = _evidence(run, images, classes[start : start + _BATCH])
        for n, image in enumerate(images):
            found.append("" if maps is None else _heat(image, maps[n], side))
    return found


def _evidence(
    run: Run, decoded: Sequence[NDArray[np.uint8]], classes: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the logits of prepared images, and their maps of evidence."""
    device = next(run.model.parameters()).device
    images = to_input(ImageDataset.stack(decoded), run.info.preprocess, device)
    return attention_maps(run.model, run.backbone, images, classes)


def _heat(image: NDArray[np.uint8], evidence: torch.Tensor, side: int = SIDE) -> str:
    """Return the image in grey under its map of evidence, from dark violet to yellow."""
    import matplotlib

    photo = shown(image)
    height, width = image.shape[:2]
    enlarged = torch.nn.functional.interpolate(
        evidence[None, None], size=(height, width), mode="bicubic", align_corners=False
    )[0, 0].clamp(0, 1)
    strength = enlarged.numpy()
    colours = matplotlib.colormaps["inferno"](strength)[..., :3] * 255
    grey = np.asarray(photo.convert("L"), dtype=np.float64)[..., None]
    share = 0.25 + 0.45 * strength[..., None]
    mixed = grey * (1 - share) + colours * share
    return _url(Image.fromarray(mixed.round().astype(np.uint8)), side)


def shown(image: NDArray[np.uint8]) -> Image.Image:
    """Return the network's input (H, W, C) as an image, without a fourth band."""
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image[..., :3])


def _url(image: Image.Image, side: int = SIDE) -> str:
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
