"""zoo's plugin for torchvision: its image classifiers, with their newest weights by default."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import zoo
from zoo_torchvision import sizes
from zoo_torchvision.options import options_of, set_channels, set_stochastic_depth
from zoo_torchvision.stages import stages_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torchvision.models import WeightsEnum

#: Head path by prefix of the model's name.
HEADS = {
    "alexnet": "classifier.6",
    "convnext": "classifier.2",
    "densenet": "classifier",
    "efficientnet": "classifier.1",
    "maxvit": "classifier.5",
    "mnasnet": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3": "classifier.3",
    "regnet": "fc",
    "resnet": "fc",
    "resnext": "fc",
    "shufflenet": "fc",
    "squeezenet": "classifier.1",
    "swin": "head",
    "vgg": "classifier.6",
    "vit": "heads.head",
    "wide_resnet": "fc",
}

#: Models with auxiliary heads, and their loss weights in torchvision's own training (GoogLeNet:
#: Szegedy et al., 2015; Inception v3: 2016).
AUXILIARY = {
    "googlenet": zoo.Head(paths=("fc", "aux2.fc2", "aux1.fc2"), aux=(0.3, 0.3)),
    "inception_v3": zoo.Head(paths=("fc", "AuxLogits.fc"), aux=(0.4,)),
}

#: Models whose position embeddings, windows or auxiliary heads fit only one input size.
FIXED_SIZE = ("inception", "maxvit", "vit")

#: Models whose builders take no rate of stochastic depth.
RATE_FIXED = ("maxvit", "swin")
#: Parameters with the auxiliary heads that torchvision's metadata leaves out.
PARAMETERS = {"googlenet": 13_004_888}

#: Before 2017, densenet's layers had names such as `norm.1`; its weights files still use them.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


@zoo.hookimpl
def zoo_backbones() -> Iterator[zoo.Backbone | zoo.LeftOut]:
    """Declare every classifier of torchvision.models."""
    from torchvision import models

    for name in models.list_models(module=models):
        head = next((path for start, path in HEADS.items() if name.startswith(start)), None)
        declared = AUXILIARY.get(name, head)
        if declared is not None:
            weights = models.get_model_weights(name)
            tagged = {
                each.name: functools.partial(_tagged, name, declared, each.name)
                for each in weights
                if each.meta["categories"]
            }
            for each in weights:
                if each.name not in tagged:
                    reason = "these weights are of the features alone, without a classifier"
                    yield zoo.LeftOut(name=f"{name}.{each.name}", reason=reason)
            newest = _declare(name, declared, weights.DEFAULT)
            yield dataclasses.replace(newest, tagged=tagged)


def _tagged(name: str, head: str | zoo.Head, tag: str) -> zoo.Backbone:
    """Declare the model with the published weights of that tag."""
    from torchvision import models

    backbone = _declare(name, head, models.get_model_weights(name)[tag])
    return dataclasses.replace(backbone, name=f"{name}.{tag}")


def _declare(
    name: str, head: str | zoo.Head, weights: WeightsEnum, image_size: int | None = None
) -> zoo.Backbone:
    transforms = weights.transforms()
    (original_size,), (resize,) = transforms.crop_size, transforms.resize_size
    size = image_size or original_size
    fixed_size = name.startswith(FIXED_SIZE)
    digest = re.search(r"-([0-9a-f]{8,})\.pth$", weights.url)
    declared = zoo.Weights(
        url=weights.url,
        tag=weights.name,
        sha256=digest.group(1) if digest else None,
        license=weights.meta.get("license"),
        data=_training_data(weights.name),
        num_classes=len(weights.meta["categories"]),
        metrics={
            f"{data} {metric}": value
            for data, values in weights.meta["_metrics"].items()
            for metric, value in values.items()
        },
    )
    fixed: dict[str, Any] = {}
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    if name.startswith("vit"):
        fixed = {"image_size": size}
        if image_size is not None:
            convert = functools.partial(sizes.resample, name, image_size)
    elif name.startswith("maxvit"):
        fixed = {"input_size": (size, size)}
    elif name in AUXILIARY:
        fixed = {"aux_logits": True, "transform_input": True, "init_weights": False}
    elif name.startswith("densenet"):
        convert = _convert_densenet
    classes = len(weights.meta["categories"])
    # A network that is built for another size has other position embeddings and more to compute.
    stated = weights.meta if image_size is None else {}
    return zoo.Backbone(
        name=name,
        build=functools.partial(_build, name, declared, classes, fixed, convert),
        head=head,
        preprocess=zoo.Preprocess(
            size=size,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            interpolation=transforms.interpolation.value,
            crop_pct=original_size / resize,
            fixed_size=fixed_size,
        ),
        weights=declared,
        parameters=PARAMETERS.get(name, stated.get("num_params")),
        macs=None if "_ops" not in stated else round(stated["_ops"] * 1e9),
        stages=stages_of(name),
        resized=functools.partial(_resized, name, head, weights) if fixed_size else None,
        options=options_of(name),
        convert=convert,
        files=functools.partial(_files, name),
    )


def _files(
    name: str, class_names: Sequence[str], preprocess: zoo.Preprocess
) -> dict[str, dict[str, Any]]:
    config = {
        "architecture": name,
        "library_name": "torchvision",
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "preprocess": preprocess.to_config(),
    }
    return {"config.json": config}


def _training_data(tag: str) -> str:
    return "Instagram-3.6B, then ImageNet-1k" if "SWAG" in tag else "ImageNet-1k"


def _resized(
    name: str, head: str | zoo.Head, weights: WeightsEnum, image_size: int
) -> zoo.Backbone:
    backbone = _declare(name, head, weights, image_size)
    sizes.check(name, backbone.build, image_size)
    return backbone


def _build(
    name: str,
    weights: zoo.Weights,
    original_classes: int,
    fixed: dict[str, Any],
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None,
    num_classes: int | None,
    pretrained: bool,
    **options: Any,
) -> nn.Module:
    from torchvision import models

    rate = options.pop("stochastic_depth_prob", None) if name.startswith(RATE_FIXED) else None
    channels = options.pop("in_chans", 3)
    model: nn.Module = models.get_model(
        name, weights=None, num_classes=num_classes or original_classes, **fixed, **options
    )
    if rate is not None:
        set_stochastic_depth(model, rate)
    if channels != 3:
        set_channels(model, channels)
    if pretrained:
        # torchvision's own loading unpickles without weights_only.
        state_dict = zoo.weights.read_state_dict(zoo.weights.fetch(weights))
        model.load_state_dict(convert(state_dict) if convert else state_dict)
    return model


def _convert_densenet(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {_OLD_DENSENET.sub(r"\1\2", k): v for k, v in state_dict.items()}
