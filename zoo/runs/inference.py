"""The forward pass shared by validation, evaluation and prediction, so that results agree."""

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

#: Images of a batch in validation, evaluation and prediction, for input sizes of up to 512 x 512
#: pixels. A GPU computes them in one forward pass, unless memory is too small.
BATCH_SIZE = 32

#: Images per forward pass on a CPU: few enough for activations to fit into the processor's cache.
CPU_BATCH = 8


def eval_batch_size(preprocess: Preprocess) -> int:
    """Return the images of a batch: fewer for larger inputs, to limit memory."""
    height, width = preprocess.height_width
    return max(1, min(BATCH_SIZE, BATCH_SIZE * 512 * 512 // (height * width)))


def eval_batches(decoded: DecodedImages) -> Batches:
    """Return a loader of batches of decoded images, in order, for `predict_logits`."""
    size = eval_batch_size(decoded.prepare.preprocess)
    return eval_loader(ImageDataset(decoded), batch_size=size, workers=0)


def predict_logits(model: nn.Module, batches: Iterable[Loaded], preprocess: Preprocess) -> Tensor:
    """Compute the logits (N, num_classes) of all batches, in full precision, float32 on the CPU.

    Args:
        model: The classifier; it is put into eval mode and left in it.
        batches: Tuples (pixels (N, C, H, W) uint8, ignored).
        preprocess: Preprocessing of the backbone, for the normalisation.

    Raises:
        RunError: If a logit is NaN or infinite.
        TrainingError: If memory is too small for one image.
    """
    device = next(model.parameters()).device
    logits = all_logits(model, batches, lambda pixels: model(to_input(pixels, preprocess, device)))
    check_finite(logits)
    return logits


def check_finite(logits: Tensor) -> None:
    """Raise a `RunError` if a logit is NaN or infinite."""
    if not bool(logits.isfinite().all()):
        raise RunError(
            "the model's scores are NaN or infinite: its weights or its preprocessing are invalid"
        )


def warn(text: str) -> None:
    """Send a warning as Python does."""
    warnings.warn(text, stacklevel=2)


@torch.inference_mode()
def all_logits(
    model: nn.Module,
    batches: Iterable[Loaded],
    compute: Callable[[Tensor], Tensor],
    say: Callable[[str], None] = warn,
) -> Tensor:
    """Compute logits like `predict_logits`, where `compute` maps a batch's inputs to logits.

    `say` is called with a warning if the batch size had to be reduced for lack of memory. Without
    batches, the result is (0, 0).
    """
    model.eval()
    device = next(model.parameters()).device
    most = CPU_BATCH if device.type == "cpu" else BATCH_SIZE
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
    return torch.cat(logits) if logits else torch.empty(0, 0)
