"""The teacher of distillation: a finished run, whose logits become a part of the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.data.transforms import to_input
from zoo.events import Listener, Note
from zoo.machine.memory import in_parts
from zoo.tasks import Distillation


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained classifier that does not change.

    It gets the pixels that the student gets, augmented and mixed ("consistent teaching", Beyer et
    al., 2022), resized to its own input size and normalised as its own preprocessing says.

    Attributes:
        model: The classifier, in eval mode on the device, without gradients.
        preprocess: Its preprocessing.
        columns: Index (classes,) of each class of the student in its logits, on the device.
        criterion: The loss of the student.
        sha256: SHA-256 of its tensors.
        about: What the run records of it: `backbone`, `sha256` and `score`.
    """

    model: nn.Module
    preprocess: Preprocess
    columns: Tensor
    criterion: Distillation
    sha256: str
    about: Mapping[str, str]

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """Compute logits (N, classes) float32, in the order of the student's classes.

        Args:
            pixels: (N, C, H, W) of the student's size, uint8 or float32 from 0 to 255.
        """
        images = to_input(self._resized(pixels), self.preprocess, self.columns.device)
        logits: Tensor = self.model(images)
        return logits.float()[:, self.columns]

    def _resized(self, pixels: Tensor) -> Tensor:
        from torchvision.transforms import InterpolationMode, v2

        size = list(self.preprocess.height_width)
        if list(pixels.shape[2:]) == size:
            return pixels
        mode = InterpolationMode(self.preprocess.interpolation)
        # Bicubic interpolation exceeds the range of its input.
        resized: Tensor = v2.functional.resize(pixels, size, mode)
        return resized.clamp(0, 255)


def teach(
    teacher: Teacher,
    pixels: Tensor,
    targets: Tensor,
    *,
    micro_batch: int | None,
    accelerator: Accelerator,
    listen: Listener,
) -> tuple[Tensor, int | None]:
    """Join the targets of a batch with the teacher's logits, in the run's precision.

    Args:
        teacher: The teacher.
        pixels: As in `Teacher.logits`.
        targets: Targets (N, ...) on the device.
        micro_batch: Images at a time; None: all.
        accelerator: Says the precision and the device.
        listen: Receives a `Note` if memory runs out.

    Returns:
        The targets of `Teacher.criterion`, and the images at a time from now on.

    Raises:
        TrainingError: Memory is too small for one image.
    """

    def compute(part: Tensor, _: int) -> Tensor:
        with accelerator.autocast():
            return teacher.logits(part)

    most = min(micro_batch or len(pixels), len(pixels))
    logits, used = in_parts(
        compute,
        pixels,
        most,
        what="the teacher's logits",
        device=accelerator.device,
        say=lambda text: listen(Note(text=text, warning=True)),
    )
    # With as many images at a time again, a resumed run rounds in the same way.
    return teacher.criterion.targets(targets, logits), used if used < most else micro_batch
