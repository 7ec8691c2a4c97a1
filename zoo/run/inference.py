"""The one forward pass that validation, evaluation and prediction share, so that they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.data.bases import Bases
from zoo.data.dataset import Batches, eval_loader
from zoo.data.transforms import to_input

#: Images per forward pass, the same for all three.
BATCH_SIZE = 32


def eval_batches(bases: Bases, workers: int = 0) -> Batches:
    """Batches of bases, in their order, as `predict_logits` takes them."""
    return eval_loader(bases, batch_size=BATCH_SIZE, workers=workers)


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    preprocess: Preprocess,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Logits (N, num_classes), float32 on the CPU, of all batches, in full precision.

    Args:
        model: Is put into eval mode and left so.
        batches: Of (pixels (N, 3, H, W) uint8, anything).
        preprocess: How the backbone wants them normalised.
        forward: The model's own forward, where calling the model would do more (mixed precision).
    """
    model.eval()
    forward = forward or model
    device = next(model.parameters()).device
    return torch.cat(
        [forward(to_input(pixels, preprocess, device)).float().cpu() for pixels, _ in batches]
    )
