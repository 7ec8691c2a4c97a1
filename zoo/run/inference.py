"""The one forward pass that validation, evaluation and prediction share, so that they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.data.dataset import Batches, eval_loader
from zoo.data.split import Sample
from zoo.data.transforms import eval_transform
from zoo.model.device import place_images

#: Images per forward pass, the same for all three.
BATCH_SIZE = 32


def eval_batches(samples: Sequence[Sample], preprocess: Preprocess, workers: int = 0) -> Batches:
    """Batches of samples in their order, prepared as the backbone expects."""
    return eval_loader(samples, eval_transform(preprocess), batch_size=BATCH_SIZE, workers=workers)


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Logits (N, num_classes), float32 on the CPU, of all batches, in full precision.

    Args:
        model: Is put into eval mode and left so.
        batches: Of (images (N, 3, H, W), anything).
        forward: The model's own forward, where calling the model would do more (mixed precision).
    """
    model.eval()
    forward = forward or model
    device = next(model.parameters()).device
    return torch.cat([forward(place_images(images, device)).float().cpu() for images, _ in batches])
