"""The one forward pass that validation, evaluation and prediction share, so that they agree."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.data.dataset import Batches, ImageDataset, Loaded, eval_loader, raising
from zoo.data.decoded import DecodedImages
from zoo.data.transforms import to_input
from zoo.errors import RunError
from zoo.machine.memory import in_parts

#: Images per forward pass, the same for all three, of up to 512 x 512 pixels; fewer only where
#: memory is too small.
BATCH_SIZE = 32


def eval_batch_size(preprocess: Preprocess) -> int:
    """Images per forward pass: fewer the larger they are, so that memory has a bound."""
    height, width = preprocess.height_width
    return max(1, min(BATCH_SIZE, BATCH_SIZE * 512 * 512 // (height * width)))


def eval_batches(bases: DecodedImages) -> Batches:
    """Batches of bases, in their order, as `predict_logits` takes them."""
    size = eval_batch_size(bases.prepare.preprocess)
    return eval_loader(ImageDataset(bases), batch_size=size, workers=0)


def predict_logits(model: nn.Module, batches: Iterable[Loaded], preprocess: Preprocess) -> Tensor:
    """Logits (N, num_classes), float32 on the CPU, of all batches, in full precision.

    Args:
        model: Is put into eval mode and left so.
        batches: Of (pixels (N, 3, H, W) uint8, anything).
        preprocess: How the backbone wants them normalised.

    Raises:
        RunError: Some are not finite, so that they say nothing.
        TrainingError: Memory is too small for one image.
    """
    device = next(model.parameters()).device
    logits = all_logits(model, batches, lambda pixels: model(to_input(pixels, preprocess, device)))
    if not bool(logits.isfinite().all()):
        raise RunError(
            "the model's scores are NaN or infinite: its weights or its preprocessing are invalid"
        )
    return logits


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)


@torch.inference_mode()
def all_logits(
    model: nn.Module,
    batches: Iterable[Loaded],
    compute: Callable[[Tensor], Tensor],
    say: Callable[[str], None] = _warn,
) -> Tensor:
    """As `predict_logits`, where `compute` gives the logits of what a batch holds.

    `say` is called with a warning if fewer images than that went through at a time.
    """
    model.eval()
    device = next(model.parameters()).device
    most = BATCH_SIZE
    logits = []
    for batch, _ in raising(batches):
        rows, most = in_parts(
            lambda part, _: compute(part).float().cpu(),
            batch,
            most,
            what="logits",
            device=device,
            say=say,
        )
        logits.append(rows)
    return torch.cat(logits)
