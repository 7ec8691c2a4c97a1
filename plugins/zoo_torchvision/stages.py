"""Depths of torchvision's layers, as fine-grained as timm's for the same architectures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import zoo.backbone

if TYPE_CHECKING:
    from torch import nn

#: A stem and four stages; downsampling between stages belongs to the first block of the later one.
_FOUR_STAGES = (
    "features.0",
    "features.1.*",
    "features.2+",
    "features.3.*",
    "features.4+",
    "features.5.*",
    "features.6+",
    "features.7.*",
)

#: Depths from the stem to the neck, by prefix of the model's name. `path.*` means every child that
#: no other entry names; `path+` belongs to the next depth, `+path` to the previous one.
STAGES: dict[str, tuple[zoo.backbone.Stage, ...]] = {
    "alexnet": ("features.*", ("classifier.1", "classifier.4")),
    "convnext": (
        *_FOUR_STAGES,
        "classifier.0",
    ),
    "densenet": (
        ("features.conv0", "features.norm0"),
        "features.denseblock1.*",
        "+features.transition1",
        "features.denseblock2.*",
        "+features.transition2",
        "features.denseblock3.*",
        "+features.transition3",
        "features.denseblock4.*",
        "features.norm5",
    ),
    "efficientnet_v2_s": (
        "features.0",
        *(f"features.{stage}.*" for stage in range(1, 7)),
        "+features.7",
    ),
    "efficientnet": (
        "features.0",
        *(f"features.{stage}.*" for stage in range(1, 8)),
        "+features.8",
    ),
    # Layers that only lead to auxiliary heads are the neck: no other layer follows them.
    "googlenet": (
        "conv1",
        ("conv2", "conv3"),
        *(f"inception{block}" for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")),
        ("aux1.conv", "aux1.fc1", "aux2.conv", "aux2.fc1"),
    ),
    "inception_v3": (
        ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
        ("Conv2d_3b_1x1", "Conv2d_4a_3x3"),
        *(f"Mixed_{block}" for block in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")),
        *(f"Mixed_{block}" for block in ("7a", "7b", "7c")),
        ("AuxLogits.conv0", "AuxLogits.conv1"),
    ),
    "maxvit": ("stem", "blocks.*", ("classifier.2", "classifier.3")),
    "mnasnet": (
        ("layers.0", "layers.1"),
        ("layers.3", "layers.4", "layers.6", "layers.7"),
        *(f"layers.{stage}.*" for stage in range(8, 14)),
        "+layers.14",
        "+layers.15",
    ),
    "mobilenet_v2": ("features.*", "+features.18"),
    "mobilenet_v3": ("features.*", "classifier.0"),
    "regnet": ("stem", *(f"trunk_output.block{stage}.*" for stage in range(1, 5))),
    "shufflenet": ("conv1", "stage2.*", "stage3.*", "stage4.*", "conv5"),
    "squeezenet": ("features.*",),
    "swin": (
        *_FOUR_STAGES,
        "+norm",
    ),
    "vgg": ("features.*", ("classifier.0", "classifier.3")),
    "vit": (
        ("class_token", "conv_proj", "encoder.pos_embedding"),
        "encoder.layers.*",
        "+encoder.ln",
    ),
    # The resnets: resnet18, resnext50_32x4d, wide_resnet50_2.
    "": (("conv1", "bn1"), "layer1.*", "layer2.*", "layer3.*", "layer4.*"),
}


def stages_of(
    name: str,
) -> tuple[zoo.backbone.Stage, ...] | Callable[[nn.Module], list[zoo.backbone.Stage]]:
    """Return `zoo.Backbone.stages` of a torchvision model."""
    declared = next(stages for start, stages in STAGES.items() if name.startswith(start))
    if name.endswith("_bn") or any("+" in stage for stage in declared if isinstance(stage, str)):
        # Only the model shows how many blocks a stage has, and which one is the last.
        return functools.partial(_joined, declared)
    return declared


def _joined(declared: tuple[zoo.backbone.Stage, ...], model: nn.Module) -> list[zoo.backbone.Stage]:
    named = {stage.strip("+") for stage in declared if isinstance(stage, str)}
    depths: list[list[str]] = []
    waiting: list[str] = []
    for stage in declared:
        if not isinstance(stage, str):
            depths.append(list(stage))
        elif stage.startswith("+"):
            depths[-1].append(stage[1:])
        elif stage.endswith("+"):
            waiting.append(stage[:-1])
        elif stage.endswith(".*"):
            for path, child in _children(model, stage[:-2], named):
                # In VGG a norm follows its convolution instead of being in the same block.
                if type(child).__name__ == "BatchNorm2d":
                    depths[-1].append(path)
                else:
                    depths.append([*waiting, path])
                    waiting = []
        else:
            depths.append([stage])
    return [tuple(paths) for paths in depths]


def _children(model: nn.Module, parent: str, named: set[str]) -> list[tuple[str, nn.Module]]:
    return [
        (f"{parent}.{name}", child)
        for name, child in model.get_submodule(parent).named_children()
        if f"{parent}.{name}" not in named and child.state_dict()
    ]
