"""The one forward pass that validation, evaluation and prediction share, so that they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.data.bases import Bases
from zoo.data.dataset import Batches, ImageDataset, eval_loader
from zoo.data.transforms import to_input

#: Images per forward pass, the same for all three.
BATCH_SIZE = 32


def eval_batches(bases: Bases, workers: int = 0) -> Batches:
    """Batches of bases, in their order, as `predict_logits` takes them."""
    return eval_loader(ImageDataset(bases), batch_size=BATCH_SIZE, workers=workers)


def predict_logits(model: nn.Module, batches: Batches, preprocess: Preprocess) -> Tensor:
    """Logits (N, num_classes), float32 on the CPU, of all batches, in full precision.

    Args:
        model: Is put into eval mode and left so.
        batches: Of (pixels (N, 3, H, W) uint8, anything).
        preprocess: How the backbone wants them normalised.
    """
    device = next(model.parameters()).device
    return all_logits(model, batches, lambda pixels: model(to_input(pixels, preprocess, device)))


@torch.inference_mode()
def all_logits(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    compute: Callable[[Tensor], Tensor],
) -> Tensor:
    """As `predict_logits`, where `compute` gives the logits of what a batch holds."""
    model.eval()
    return torch.cat([compute(batch).float().cpu() for batch, _ in batches])
