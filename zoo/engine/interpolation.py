"""Weights between those that fine-tuning began with and those it ended with (WiSE-FT).

On val images such weights are often better than either end: they keep of the pretrained features
what a few images would have overwritten (Wortsman et al., "Robust fine-tuning of zero-shot models",
CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from zoo.engine.checkpointing import load_state
from zoo.engine.measure import Validation

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
    last: Validation,
    validate: Callable[[], Validation],
    metric: str,
) -> tuple[Validation, float]:
    """The best of the model's weights and those of `SHARES`, by the metric, then by loss.

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
    best, best_share = last, 1.0
    for share in reversed(SHARES):
        load_state(model, interpolate(first, kept, share))
        found = validate()
        if (found.value(metric), -found.loss) > (best.value(metric), -best.loss):
            best, best_share = found, share
    load_state(model, kept)
    return best, best_share
