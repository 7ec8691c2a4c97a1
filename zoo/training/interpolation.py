"""Interpolation between the initial and the final weights of fine-tuning (WiSE-FT).

On val images interpolated weights are often better than either end: they preserve pretrained
features that training on few images would have overwritten (Wortsman et al., "Robust fine-tuning of
zero-shot models", CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from zoo.tasks import Metrics
from zoo.training.snapshot import load_state

#: Shares of the way from the first to the last weights that are tried in addition to the last.
SHARES = (0.25, 0.5, 0.75)


def interpolate(
    first: Mapping[str, Tensor], last: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Return the state dict that lies `share` (0..1) of the way from `first` to `last`.

    Tensors that are not floating-point are those of `last`.
    """
    if share == 1:
        return dict(last)
    return {
        name: torch.lerp(first[name].to(tensor), tensor, share)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in last.items()
    }


@torch.no_grad()
def best_interpolation(
    model: nn.Module,
    first: Mapping[str, Tensor],
    last: Metrics,
    validate: Callable[[], Metrics],
    metric: str,
) -> tuple[Metrics, float]:
    """Find the best of the model's weights and their interpolations at `SHARES`.

    Of those whose metric is within a standard error (of the task's main metric) of the best, this
    is the one with the lowest loss: val sets are small, and the loss says more than a single image.

    Args:
        model: Holds the last weights, before and after the call.
        first: Initial state dict of fine-tuning.
        last: Metrics of the last weights.
        validate: Returns the metrics of the model.
        metric: Metric by which weights are compared.

    Returns:
        Metrics of the best weights, and their share of the way to the last ones.
    """
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = [(last, 1.0)]
    for share in reversed(SHARES):
        load_state(model, interpolate(first, kept, share))
        found.append((validate(), share))
    load_state(model, kept)
    best = max((val for val, _ in found), key=lambda val: val.value(metric))
    margin = 0.0 if metric == "log-loss" else best.error
    close = [each for each in found if each[0].value(metric) >= best.value(metric) - margin]
    return min(close, key=lambda each: each[0].loss)
