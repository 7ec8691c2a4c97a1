"""model.safetensors, against its own SHA-256s and against its backbone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from zoo.backbone import Backbone
from zoo.errors import PluginError, RunError, ZooError
from zoo.integrity.finding import Finding, State
from zoo.io.text import clip
from zoo.models.build import build_empty
from zoo.runs.parse import read_head
from zoo.runs.read import backbone_of, read_tensors
from zoo.runs.write import FORMAT, ModelInfo
from zoo.tasks import metric_label


def check_model(file: Path) -> tuple[Finding, ModelInfo | None]:
    """The finding on model.safetensors, and what it says of itself if that can be believed."""
    try:
        header, info = read_head(file)
    except RunError as error:
        return Finding(file=file.name, state="wrong", detail=str(error)), None
    state: State = "ok"
    score = f"val {metric_label(info.score_name)} {info.score:.2%}"
    said = [f"{len(info.class_names)} classes, {info.stage}, {score}"]
    if header.metadata["zoo_format"] != FORMAT:
        state = "unchecked"
        said.append("written by an older zoo, without a SHA-256 of its metadata")
    try:
        backbone = backbone_of(file, header, info)
        own = _shapes(backbone, len(info.class_names))
    except PluginError as error:
        state = "unchecked"
        said.append(f"whether it fits its backbone is not known: {clip(str(error))}")
    except ZooError as error:
        return Finding(file=file.name, state="wrong", detail=str(error)), info
    else:
        if own != header.shapes:
            different = sorted(n for n, _ in own.items() ^ header.shapes.items())
            text = f"its tensors are not those of {info.backbone}: {', '.join(different[:5])}"
            return Finding(file=file.name, state="wrong", detail=clip(text)), info
        said.append(f"{len(own)} tensors, as {info.backbone} has them")
    try:
        read_tensors(file, header)
    except RunError as error:
        return Finding(file=file.name, state="wrong", detail=str(error)), info
    return Finding(file=file.name, state=state, detail="; ".join(said)), info


def build_without_memory(backbone: Backbone, num_classes: int) -> nn.Module:
    """The backbone's network, on the meta device where it can be built there.

    Raises:
        PluginError: It can't be built.
    """
    try:
        with torch.device("meta"):
            return build_empty(backbone, num_classes)
    except PluginError:
        # Some read values while they are built, which the meta device has not.
        return build_empty(backbone, num_classes)


def _shapes(backbone: Backbone, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Of each tensor of the backbone's network."""
    model = build_without_memory(backbone, num_classes)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
