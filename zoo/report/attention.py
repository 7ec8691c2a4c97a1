"""Where in an image a classifier finds its evidence for a class (HiResCAM)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoo.backbone import Backbone
from zoo.models.depth import depths

#: Maximum number of tokens before those of the image: classes, distillation, registers.
_MOST_PREFIX = 16


def attention_maps(
    model: nn.Module, backbone: Backbone, images: Tensor, classes: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Compute logits, and a map of the evidence for a class in each image.

    The map is that of HiResCAM (Draelos and Carin, 2020): feature map times gradient of the logit,
    summed over channels, negative values set to 0. For a convolutional network that ends with
    pooling and a linear layer, it equals Grad-CAM (Selvaraju et al., 2017). The feature map is the
    last output of a declared stage that has more than one position and a gradient there, so that
    of a vision transformer with a class token is the input of its last block. Tokens are arranged
    as the patches of the image.

    Args:
        model: The classifier, in eval mode.
        backbone: Declares the stages.
        images: (N, C, H, W) float32, normalised, on the model's device.
        classes: Class of each image whose evidence is shown.

    Returns:
        Logits (N, classes), and maps (N, h, w) in 0..1 with maximum 1 (or 0 if there is no
        evidence); None if the stages are not declared or none has such a map. Both on the CPU.
    """
    layers = depths(model, backbone)
    paths = [path for stage in layers.stages for path in stage] if layers.declared else []
    modules = [module for path in paths if (module := _module(model, path)) is not None]
    images = images.detach().requires_grad_()
    with torch.enable_grad(), _recorded(modules) as outputs:
        logits = model(images)
        score = logits[torch.arange(len(images)), list(classes)].sum()
        usable = [each for each in outputs if each.requires_grad and len(each) == len(images)]
        if not usable:
            return logits.detach().float().cpu(), None
    found = None
    # One by one, because most networks have a map at their last stage, close to the logits.
    for output in reversed(usable):
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            score, output, retain_graph=True, allow_unused=True
        )
        gradient = gradients[0]
        if gradient is None:
            continue
        image_size = (images.shape[2], images.shape[3])
        value, slope = (_positions(each, image_size) for each in (output.detach(), gradient))
        # With a class token, the patches of the last block have no part in the logits.
        if value is None or slope is None or not bool(slope.abs().amax() > 0):
            continue
        found = (value * slope).sum(dim=1).clamp(min=0).float().cpu()
        break
    if found is None:
        return logits.detach().float().cpu(), None
    largest = found.amax(dim=(1, 2), keepdim=True)
    return logits.detach().float().cpu(), found / largest.clamp(min=1e-12)


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:  # A parameter.
        return None


@contextmanager
def _recorded(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Yield a list to which the outputs of the modules are appended, in order of computation."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> object:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        outputs.append(output)
        # What follows may change its input in place.
        return output.clone()

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _positions(tensor: Tensor, image_size: tuple[int, int]) -> Tensor | None:
    """Return a tensor as (N, C, h, w); None if it has no positions, or only one."""
    height, width = image_size
    if tensor.ndim == 4:
        first = tensor.shape[2] * width == tensor.shape[3] * height
        last = tensor.shape[1] * width == tensor.shape[2] * height
        if last and not first:
            tensor = tensor.permute(0, 3, 1, 2)
        elif not first:
            # Rounded sizes, of images that no stride divides: channels are more than positions.
            counts = tensor.shape[1:]
            tensor = tensor if counts[0] >= counts[2] else tensor.permute(0, 3, 1, 2)
    elif tensor.ndim == 3:
        grid = _grid(tensor.shape[1], height / width)
        if grid is None:
            return None
        patches = tensor[:, -grid[0] * grid[1] :]
        tensor = patches.transpose(1, 2).reshape(len(tensor), -1, *grid)
    else:
        return None
    return tensor if tensor.shape[2] * tensor.shape[3] > 1 else None


def _grid(tokens: int, ratio: float) -> tuple[int, int] | None:
    """Return (rows, columns) of the patches among tokens, with the fewest other tokens."""
    for prefix in range(min(_MOST_PREFIX, tokens - 1) + 1):
        patches = tokens - prefix
        rows = round(math.sqrt(patches * ratio))
        if rows and patches % rows == 0 and abs(rows / (patches // rows) - ratio) < 1e-6:
            return rows, patches // rows
    return None
