"""zoo fine-tunes any pretrained image classifier.

    run = zoo.finetune("photos", backbone="resnet18")
    run.predict(["a.jpg"])

Everything here is loaded when first used, so that `import zoo` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo import allocator, events, testing, weights
    from zoo.backbone import Backbone, Head, LeftOut, Preprocess, Weights
    from zoo.data.check import check_data
    from zoo.data.sample import Sample
    from zoo.data.sources import Part
    from zoo.errors import Stopped, ZooError
    from zoo.hookspecs import hookimpl
    from zoo.integrity import verify
    from zoo.integrity.finding import Finding
    from zoo.models.build import build
    from zoo.models.groups import parameter_groups
    from zoo.pipeline.finetune import finetune, resume
    from zoo.plugins import backbones
    from zoo.recipe import Recipe
    from zoo.runs.read import Prediction, Run, load

__all__ = [
    "Backbone",
    "Finding",
    "Head",
    "LeftOut",
    "Part",
    "Prediction",
    "Preprocess",
    "Recipe",
    "Run",
    "Sample",
    "Stopped",
    "Weights",
    "ZooError",
    "allocator",
    "backbones",
    "build",
    "check_data",
    "events",
    "finetune",
    "hookimpl",
    "load",
    "parameter_groups",
    "resume",
    "testing",
    "verify",
    "weights",
]

_MODULES = frozenset({"allocator", "events", "testing", "weights"})

_HOME = {
    "Backbone": "zoo.backbone",
    "Head": "zoo.backbone",
    "LeftOut": "zoo.backbone",
    "Preprocess": "zoo.backbone",
    "Weights": "zoo.backbone",
    "Stopped": "zoo.errors",
    "ZooError": "zoo.errors",
    "hookimpl": "zoo.hookspecs",
    "backbones": "zoo.plugins",
    "Recipe": "zoo.recipe",
    "check_data": "zoo.data.check",
    "Part": "zoo.data.sources",
    "Sample": "zoo.data.sample",
    "build": "zoo.models.build",
    "parameter_groups": "zoo.models.groups",
    "Prediction": "zoo.runs.read",
    "Run": "zoo.runs.read",
    "load": "zoo.runs.read",
    "Finding": "zoo.integrity.finding",
    "verify": "zoo.integrity",
    "finetune": "zoo.pipeline.finetune",
    "resume": "zoo.pipeline.finetune",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"zoo.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
