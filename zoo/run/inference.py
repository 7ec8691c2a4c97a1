"""The one forward pass that validation, evaluation and prediction share, so that they agree."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from zoo.model.device import place_images

#: Images per forward pass, the same for all three.
BATCH_SIZE = 32


@torch.inference_mode()
def predict_logits(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Logits (N, num_classes), float32 on the CPU, of all batches, in full precision.

    The model is put into eval mode and left so.
    """
    model.eval()
    device = next(model.parameters()).device
    logits = [model(place_images(images, device)).float().cpu() for images, _ in batches]
    return torch.cat(logits)
