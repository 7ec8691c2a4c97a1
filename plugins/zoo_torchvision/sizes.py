"""Build torchvision's networks of fixed input size for other sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def check(name: str, build: Callable[[int | None, bool], nn.Module], image_size: int) -> None:
    """Check that the network supports an input size.

    Raises:
        ValueError: If it doesn't; the message gives the reason.
    """
    import torch

    if name.startswith("vit") and image_size % _patch_size(name):
        raise ValueError(
            f"{image_size} is not a multiple of its patch size, {_patch_size(name)} pixels"
        )
    try:
        # On the meta device nothing is computed; train mode includes the auxiliary heads.
        with torch.device("meta"), torch.no_grad():
            build(2, False).train()(torch.zeros(2, 3, image_size, image_size))
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"a layer of it can't take that: {reason}") from error


def resample(name: str, image_size: int, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resample position embeddings as torchvision does; weights for this size are unchanged."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    if "encoder.pos_embedding" not in state_dict:
        return state_dict
    resampled: dict[str, Tensor] = interpolate_embeddings(
        image_size, _patch_size(name), dict(state_dict)
    )
    return resampled


def _patch_size(name: str) -> int:
    """Return the patch size in a name: `vit_b_16` -> 16."""
    return int(name.rpartition("_")[2])
