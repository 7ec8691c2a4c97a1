"""Weights between those that fine-tuning began with and those it ended with (WiSE-FT).

On val images such weights are often better than either end: they keep of the pretrained features
what a few images would have overwritten (Wortsman et al., "Robust fine-tuning of zero-shot models",
CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from zoo.tasks import Metrics
from zoo.training.snapshot import load_state

#: Shares of the way from the first to the last weights that are tried beside the last ones.
SHARES = (0.25, 0.5, 0.75)


def interpolate(
    first: Mapping[str, Tensor], last: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """The state dict that lies `share` (0..1) of the way from `first` to `last`.

    What is no floating-point number is that of `last`.
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
    """The best of the model's weights and those of `SHARES`.

    Of those whose metric is within a standard error (of the task's main metric) of the largest the
    one with the least loss: val sets are small, and a loss says more than an image more or less.

    Args:
        model: Holds the last weights, also afterwards.
        first: The state dict that fine-tuning began with.
        last: What the last weights reach.
        validate: Measures the model.
        metric: The deciding one.

    Returns:
        What the best weights reach, and their share of the way to the last ones.
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
