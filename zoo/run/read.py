"""Read a run: from its folder or from model.safetensors alone, checked before it is used."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn

from zoo import plugins
from zoo.backbone import Backbone, Preprocess
from zoo.data.bases import Bases
from zoo.data.split import Sample
from zoo.data.transforms import eval_transform
from zoo.errors import DataError, PluginError, RunError, SizeError
from zoo.model.build import build_for
from zoo.model.device import choose_device, place
from zoo.model.size import needs_resizing, resized
from zoo.recipe import Recipe
from zoo.run.evaluate import Evaluation, Split, evaluate
from zoo.run.inference import eval_batches, predict_logits
from zoo.run.write import FORMAT, MODEL, ModelInfo
from zoo.weights import is_file, tensors_sha256

AnyImage = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says about one image.

    Attributes:
        path: The image's file; None for one given in memory.
        label: The most probable class.
        probability: Its softmax probability, 0..1.
        top: (label, probability) of the most probable classes, best first.
    """

    path: Path | None
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained classifier.

    Attributes:
        path: The folder or file it was read from.
        info: What the file says about itself: class names, preprocessing, recipe, accuracy.
        backbone: Its declaration.
        model: In eval mode, on its device.
    """

    path: Path
    info: ModelInfo
    backbone: Backbone
    model: nn.Module

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.info.class_names

    def predict(self, images: AnyImage | Iterable[AnyImage], *, top_k: int = 5) -> list[Prediction]:
        """Classify images.

        Args:
            images: One or many: a path, a Pillow image, or an array (H, W, 3) or (H, W) uint8.
            top_k: How many classes to name, at most.

        Returns:
            A prediction an image, in their order.

        Raises:
            DataError: An image can't be read, or is of another kind, or top_k is below 1.
        """
        many = [images] if isinstance(images, str | Path | Image.Image | np.ndarray) else images
        return self.predict_samples([_sample(image) for image in many], top_k=top_k)

    def predict_samples(self, samples: Sequence[Sample], *, top_k: int = 5) -> list[Prediction]:
        """As `predict`, for samples, whose labels are not read."""
        if top_k < 1:
            raise DataError(f"top_k must be at least 1, got {top_k}")
        if not samples:
            return []
        preprocess = self.info.preprocess
        bases = Bases(samples, eval_transform(preprocess).prepare)
        logits = predict_logits(self.model, eval_batches(bases), preprocess)
        probabilities = logits.softmax(dim=1)
        values, labels = probabilities.topk(min(top_k, len(self.class_names)), dim=1)
        return [
            _prediction(sample, values_, [self.class_names[i] for i in labels_])
            for sample, values_, labels_ in zip(
                samples, values.tolist(), labels.tolist(), strict=True
            )
        ]

    def evaluate(
        self, data: str | Path | None = None, *, split: Split = "val", strict: bool = False
    ) -> Evaluation:
        """Measure accuracy on labelled images; see `zoo.run.evaluate.evaluate`."""
        where = None if data is None else Path(data).expanduser()
        return evaluate(self.model, self.info, where, split=split, strict=strict)


def load(path: str | Path, *, device: str = "auto") -> Run:
    """Read a run and build its model.

    Args:
        path: A run folder, or its model.safetensors wherever that lies now.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        RunError: There is no run, or the file is damaged.
        PluginError: Its backbone's plugin is not installed or fails.
        WeightsError: The weights don't fit the backbone.
    """
    path = Path(path).expanduser()
    file = path if is_file(path) else path / MODEL
    state_dict, details = _read(file)
    info = _parse(file, details)
    if tensors_sha256(state_dict) != details.get("sha256"):
        raise RunError(f"{file} is damaged: its weights are not the ones that were written")
    try:
        backbone = plugins.get(info.backbone)
    except PluginError as error:
        raise PluginError(f"{file} needs backbone {info.backbone}: {error}") from error
    if needs_resizing(backbone, info.preprocess.size):
        try:
            backbone = resized(backbone, info.preprocess.size)
        except SizeError as error:
            raise RunError(f"{file}: {error}") from error
    model = build_for(backbone, len(info.class_names), state_dict)
    return Run(path=path, info=info, backbone=backbone, model=place(model, choose_device(device)))


def read_info(file: Path) -> ModelInfo:
    """What a model.safetensors says about itself; its weights are not read.

    Raises:
        RunError: There is no such file, or zoo didn't write it.
    """
    return _parse(file, _read(file, tensors=False)[1])


def _read(file: Path, *, tensors: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not is_file(file):
        raise RunError(f"no run at {file.parent}: there is no {file.name} that can be read")
    try:
        with safe_open(file, framework="pt") as content:
            details = content.metadata() or {}
            names = content.keys() if tensors else []
            return {name: content.get_tensor(name) for name in names}, details
    except (SafetensorError, OSError) as error:
        raise RunError(f"{file} is no readable safetensors file: {error}") from error


def _parse(file: Path, details: dict[str, str]) -> ModelInfo:
    if "zoo_format" not in details:
        raise RunError(f"{file} was not written by zoo: its metadata names no classes or backbone")
    if details["zoo_format"] != FORMAT:
        raise RunError(
            f"{file} has format {details['zoo_format']}, this zoo reads {FORMAT}; update zoo"
        )
    try:
        class_names = json.loads(details["class_names"])
        if not isinstance(class_names, list) or not all(isinstance(n, str) for n in class_names):
            raise ValueError("class_names is no list of names")
        return ModelInfo(
            backbone=details["backbone"],
            class_names=tuple(class_names),
            preprocess=Preprocess.from_dict(json.loads(details["preprocess"])),
            recipe=Recipe.model_validate(tomllib.loads(details["recipe"])),
            weights_source=details["weights_source"],
            epoch=int(details["epoch"]),
            val_accuracy=float(details["val_accuracy"]),
            val_sha256=details["val_sha256"],
            versions=dict(json.loads(details["versions"])),
            history=tuple(map(str, json.loads(details.get("history", "[]")))),
        )
    except (KeyError, ValueError, TypeError, AttributeError, PluginError, ValidationError) as error:
        raise RunError(f"the metadata of {file} can't be understood: {error}") from error


def _sample(image: AnyImage) -> Sample:
    if isinstance(image, str | Path):
        return Sample(name=str(image), label=0, image=Path(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or image.ndim < 2:
            raise DataError(
                f"an image array must be (H, W, 3) or (H, W) uint8, got {image.shape} {image.dtype}"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise DataError(f"an image is a path, a Pillow image or an array, got {type(image)}")
    return Sample(name="", label=0, image=image)


def _prediction(sample: Sample, probabilities: list[float], labels: list[str]) -> Prediction:
    return Prediction(
        path=sample.image if isinstance(sample.image, Path) else None,
        label=labels[0],
        probability=probabilities[0],
        top=tuple(zip(labels, probabilities, strict=True)),
    )
