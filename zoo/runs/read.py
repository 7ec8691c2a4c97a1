"""Load and verify a run, from its folder or from model.safetensors alone, and predict with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from zoo import plugins
from zoo.backbone import Backbone, Preprocess
from zoo.data.dataset import ImageDataset
from zoo.data.files import is_url
from zoo.data.headers import MAX_PIXELS
from zoo.data.image import image_from_bytes, read_image, to_channels
from zoo.data.sample import Sample
from zoo.data.transforms import eval_transform
from zoo.errors import DataError, OptionError, PluginError, RunError, SizeError, WeightsError
from zoo.io.files import expand, is_file
from zoo.io.html import facts_html, table_html
from zoo.io.text import clip, count
from zoo.machine.device import choose_device, place
from zoo.models.build import build_empty, load_whole, refuse_larger
from zoo.models.head import in_head
from zoo.models.variant import variant
from zoo.runs.confidence import (
    Confidence,
    Threshold,
    error_threshold,
    prediction_set,
    set_threshold,
)
from zoo.runs.evaluate import Evaluation, Reading, Split, evaluate
from zoo.runs.inference import eval_batch_size, warn
from zoo.runs.parse import read_head
from zoo.runs.scores import features_and_logits
from zoo.runs.stream import Engine, Precision, Unreadable, forward, predictions, torch_engine
from zoo.runs.tta import Tta, check_tta, doubt_of_tta
from zoo.runs.write import MODEL, ModelInfo, at_threshold, task_of
from zoo.tasks import Task
from zoo.tasks.thresholds import THRESHOLD
from zoo.weights import tensors_sha256
from zoo.weights.files import leads_out
from zoo.weights.header import Header

#: Maximum number of predictions in the table that a notebook shows.
MOST_ROWS = 100

AnyImage = str | Path | bytes | BinaryIO | Image.Image | np.ndarray | Sample


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        path: Path of the image file; None for an image given in memory.
        label: The most probable class.
        probability: Probability of `label`, 0..1: softmax, or sigmoid if the task is multi-label,
            of the logits divided by the run's temperature.
        top: (label, probability) of the most probable classes, most probable first.
        labels: The predicted labels: only `label`, or none if `unsure`; multi-label: all classes
            whose probability is at least their threshold, most probable first.
        unsure: Whether `probability` is below what `min_confidence` or `max_error` asks for.
        label_set: With `set_coverage`, the classes of which one is the right one with at least that
            probability, most probable first; otherwise None.
        distance: Distance from the training images, 1 at the limit of what is familiar; None if the
            run does not know.
    """

    path: Path | None
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    labels: tuple[str, ...]
    unsure: bool = False
    label_set: tuple[str, ...] | None = None
    distance: float | None = None

    @property
    def familiar(self) -> bool | None:
        """Whether the image is like those that the run was trained on; None if unknown."""
        return None if self.distance is None else self.distance <= 1

    def _repr_html_(self) -> str:
        """Return the HTML table that a notebook shows."""
        return Predictions([self])._repr_html_()


class Predictions(list[Prediction]):
    """A list of predictions, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        """Return the HTML table that a notebook shows, of at most `MOST_ROWS` predictions."""
        rows = [
            (
                "" if each.path is None else each.path.name,
                " + ".join(each.labels) or f"unsure ({each.label})",
                f"{each.probability:.1%}",
                "no" if each.familiar is False else "",
            )
            for each in self[:MOST_ROWS]
        ]
        table = table_html(("image", "prediction", "probability", "familiar"), rows)
        left_out = len(self) - len(rows)
        return f"{table}<p>and {left_out:,} more</p>" if left_out else table


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of predictions, as `Run.asked` returns it.

    Attributes:
        top_k: Maximum number of classes in `Prediction.top`.
        thresholds: Multi-label: minimum probability of each class to be predicted; empty: 0.5.
        least: Probability below which a prediction is unsure.
        least_in_set: Probability from which on a class is in `Prediction.label_set`; None for none.
        tta: Test-time augmentation; None for none.
    """

    top_k: int = 5
    thresholds: tuple[float, ...] = ()
    least: float = 0.0
    least_in_set: float | None = None
    tta: Tta | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained classifier.

    Attributes:
        path: The run folder or file that it was loaded from.
        info: Metadata of the file: class names, preprocessing, recipe, accuracy.
        backbone: The declaration of its backbone.
        model: The classifier, in eval mode, on its device.
    """

    path: Path
    info: ModelInfo
    backbone: Backbone
    model: nn.Module

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self._facts().items())
        return f"Run({facts})"

    def _repr_html_(self) -> str:
        """Return the HTML table that a notebook shows."""
        return facts_html({name.replace("_", " "): v for name, v in self._facts().items()})

    def _facts(self) -> dict[str, object]:
        score = self.info.score
        return {
            "name": self.path.resolve().name,
            "backbone": self.info.backbone,
            "classes": len(self.class_names),
            f"val_{self.info.score_name}": score and round(score, 4),
            "epoch": self.info.epoch,
        }

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.info.class_names

    @property
    def task(self) -> Task:
        """The task: single-label or multi-label classification, with the run's thresholds."""
        return task_of(self.info)

    def predict(
        self,
        images: AnyImage | Iterable[AnyImage],
        *,
        top_k: int = 5,
        threshold: float | None = None,
        min_confidence: float | None = None,
        max_error: float | None = None,
        set_coverage: float | None = None,
        tta: Tta | None = None,
    ) -> list[Prediction]:
        """Classify images.

        Args:
            images: One or many: a path, the bytes of an image file, a file opened in binary mode, a
                `zoo.Sample`, a Pillow image, or a uint8 array: greyscale (H, W) or (H, W, 1), RGB
                (H, W, 3), or RGBA (H, W, 4), which is composited over white unless the run takes
                four channels; then each image must have four.
            top_k: Maximum number of classes in `Prediction.top`.
            threshold: Multi-label: minimum probability, 0..1, of a predicted class; default: the
                run's threshold of each class, see `zoo.runs.write.ModelInfo.thresholds`, or 0.5.
            min_confidence: Single-label: predictions below this probability, 0..1, are `unsure`.
            max_error: Single-label: share of wrong answers, above 0 and below 1, that is accepted;
                the threshold for it comes from held-out images, see `error_threshold`.
            set_coverage: Single-label: probability, above 0 and below 1, with which `label_set` has
                the right class, see `zoo.runs.confidence.set_threshold`.
            tta: Test-time augmentation: logits and features are averaged over the image and its
                mirror image (`hflip`), or over the image, its corners and its centre (`five-crop`).

        Returns:
            One prediction for each image, in the order of `images`; a list, which a notebook shows
            as a table.

        Raises:
            DataError: If an image can't be read or has an unsupported type, a number is out of its
                range, or the run does not know, or its held-out images can't show, what is asked.
        """
        asked = self.asked(
            top_k=top_k,
            threshold=threshold,
            min_confidence=min_confidence,
            max_error=max_error,
            set_coverage=set_coverage,
            tta=tta,
        )
        self._doubt(tta)
        given = list(_as_iterable(images))
        paths = [_path_of(each) for each in given]
        decoded = [self.prepare(each) for each in given]
        return Predictions(self.predict_prepared(decoded, paths, asked))

    def asked(
        self,
        *,
        top_k: int = 5,
        threshold: float | None = None,
        min_confidence: float | None = None,
        max_error: float | None = None,
        set_coverage: float | None = None,
        tta: Tta | None = None,
    ) -> Asked:
        """Return what `predict` is asked for, with the thresholds of this run.

        Raises:
            DataError: As in `predict`.
        """
        if top_k < 1:
            raise DataError(f"top_k must be at least 1, got {top_k}")
        shares = {"max_error": max_error, "set_coverage": set_coverage}
        for name, value in shares.items():
            if value is not None and not 0 < value < 1:
                raise DataError(f"{name} must be above 0 and below 1, got {value}")
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise DataError(f"min_confidence must be 0 to 1, got {min_confidence}")
        given = {"min_confidence": min_confidence, **shares}
        if not self.task.exclusive and (used := [n for n, v in given.items() if v is not None]):
            raise DataError(
                f"{used[0]} is for single-label runs; this one is {self.task.name}",
                hint="set the probability from which on a label is predicted by `threshold`",
            )
        if threshold is not None and not 0 <= threshold <= 1:
            raise DataError(f"threshold must be 0 to 1, got {threshold}")
        thresholds = self.info.thresholds
        if threshold is not None:
            thresholds = (threshold,) * len(self.class_names)
        check_tta(tta)
        if tta is not None and (used := [n for n, v in shares.items() if v is not None]):
            raise DataError(
                f"{used[0]} rests on predictions of held-out images without test-time augmentation",
                hint="leave out `tta`, or set `min_confidence` instead",
            )
        least = min_confidence or 0.0
        if max_error is not None:
            least = max(least, self.error_threshold(max_error).probability)
        return Asked(
            top_k=top_k,
            thresholds=thresholds,
            least=least,
            least_in_set=None
            if set_coverage is None
            else set_threshold(self._confidence(), set_coverage),
            tta=tta,
        )

    def _doubt(self, tta: Tta | None) -> None:
        if (text := doubt_of_tta(tta, self.info.recipe)) is not None:
            warn(text)

    def error_threshold(self, max_error: float) -> Threshold:
        """Return the threshold of probabilities for a share of wrong answers, above 0 and below 1.

        See `zoo.runs.confidence.error_threshold`.

        Raises:
            DataError: The run does not know its error rates, or its held-out images can't show
                such a low one.
        """
        return error_threshold(self._confidence(), max_error)

    def _confidence(self) -> Confidence:
        if self.info.confidence is None:
            raise DataError(
                "the run has no record of its confidence on held-out images",
                hint="train it again with this version of zoo, with val images or with `folds`",
            )
        return self.info.confidence

    def stream(
        self,
        images: AnyImage | Iterable[AnyImage],
        *,
        unreadable: Literal["raise", "yield"] = "raise",
        engine: Engine | None = None,
        workers: int | None = None,
        batch_size: int | None = None,
        precision: Precision = "fp32",
        **asked: Any,
    ) -> Iterator[Prediction | Unreadable]:
        """Classify images one batch after another, in bounded memory, and yield the predictions.

        Images are decoded in threads while the network computes. The network's batch norms are
        folded into its convolutions, so that its logits differ from those of `predict` by rounding.

        Args:
            images: As in `predict`; iterated over as far as needed.
            unreadable: Whether an image that can't be read is an error, or yields an `Unreadable`.
            engine: What computes features and logits; default: torch, see `torch_engine`.
            workers: Number of threads that decode; default: the number of cores.
            batch_size: Images per forward pass; default: that of the engine.
            precision: Of the default engine: `fp32`, or `bf16` or `fp16` for mixed precision.
            asked: The other arguments of `predict`.

        Yields:
            One for each image, in the order of `images`.

        Raises:
            DataError: As in `predict`.
            TrainingError: The device does not support the precision, or has too little memory.
        """
        wanted = self.asked(**asked)
        self._doubt(wanted.tta)
        engine = engine or torch_engine(self, precision=precision)
        pairs = ((_path_of(image), image) for image in _as_iterable(images))
        for found in predictions(
            self, pairs, wanted, engine, workers=workers, batch_size=batch_size
        ):
            if isinstance(found, Unreadable) and unreadable == "raise":
                raise DataError(found.error)
            yield found

    def embed(
        self,
        images: AnyImage | Iterable[AnyImage],
        *,
        engine: Engine | None = None,
        workers: int | None = None,
        batch_size: int | None = None,
        precision: Precision = "fp32",
    ) -> np.ndarray:
        """Compute the features of images, for search, clustering or another classifier.

        Features are the input of the head, averaged over positions if there are several.

        Args:
            images: As in `predict`.
            engine: As in `stream`.
            workers: As in `stream`.
            batch_size: As in `stream`.
            precision: As in `stream`.

        Returns:
            (N, C) float32, a row for each image.

        Raises:
            DataError: An image can't be read.
        """
        engine = engine or torch_engine(self, precision=precision)
        pairs = ((None, image) for image in _as_iterable(images))
        rows = []
        for batch in forward(self, pairs, engine, workers=workers, batch_size=batch_size):
            for error in batch.errors.values():
                raise error
            rows.append(batch.features)
        return torch.cat(rows).numpy() if rows else np.empty((0, 0), np.float32)

    def prepare(self, image: AnyImage, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Return the model's input of an image: decoded, resized and cropped, (H, W, C) uint8.

        Args:
            image: As in `predict`.
            max_pixels: Bytes of an image with more pixels than this are refused.

        Raises:
            DataError: If it can't be read, or has a type that `predict` does not support.
        """
        preprocess = self.info.preprocess
        prepare = eval_transform(preprocess).prepare
        return prepare(_decoded(image, preprocess, max_pixels))

    def predict_prepared(
        self, decoded: Sequence[np.ndarray], paths: Sequence[Path | None], asked: Asked
    ) -> list[Prediction]:
        """Classify images that `prepare` returned, like `predict`; `paths` are their files."""
        if not decoded:
            return []
        preprocess = self.info.preprocess
        size = eval_batch_size(preprocess)
        starts = range(0, len(decoded), size)
        batches = ((ImageDataset.stack(decoded[n : n + size]), torch.empty(0)) for n in starts)
        features, logits = features_and_logits(
            self.model, self.backbone, batches, preprocess, tta=asked.tta
        )
        return self.predictions_of(features, logits, paths, asked)

    def predictions_of(
        self,
        features: torch.Tensor,
        logits: torch.Tensor,
        paths: Sequence[Path | None],
        asked: Asked,
    ) -> list[Prediction]:
        """Return the predictions of images from their features (N, F) and logits (N, classes)."""
        probabilities = self.task.probabilities(logits / self.info.temperature)
        values, indices = probabilities.sort(dim=1, descending=True, stable=True)
        known = self.info.familiarity
        distances: list[float | None] = [None] * len(paths)
        if known is not None:
            distances = known.distances(features).tolist()
        bounds = torch.tensor(asked.thresholds or [THRESHOLD] * len(self.class_names))
        reached = values >= bounds.to(values)[indices]
        predictions = []
        for path, row, order, which, distance in zip(
            paths, values.tolist(), indices.tolist(), reached, distances, strict=True
        ):
            ranked = [(self.class_names[i], p) for i, p in zip(order, row, strict=True)]
            labels = tuple(ranked[n][0] for n in which.nonzero().flatten().tolist())
            predictions.append(self._prediction(path, ranked, labels, distance, asked))
        return predictions

    def _prediction(
        self,
        path: Path | None,
        ranked: list[tuple[str, float]],
        reached: tuple[str, ...],
        distance: float | None,
        asked: Asked,
    ) -> Prediction:
        """Make a prediction from all classes, and those that reach their threshold, in order."""
        label, probability = ranked[0]
        unsure = probability < asked.least
        labels = reached
        if self.task.exclusive:
            labels = () if unsure else (label,)
        in_set = asked.least_in_set
        return Prediction(
            path=path,
            label=label,
            probability=probability,
            top=tuple(ranked[: asked.top_k]),
            labels=labels,
            unsure=unsure,
            label_set=None if in_set is None else prediction_set(ranked, in_set),
            distance=distance,
        )

    def evaluate(
        self,
        data: str | Path | None = None,
        *,
        split: Split = "val",
        strict: bool = False,
        follow_links: bool = False,
        allow_network: bool = False,
        tta: Tta | None = None,
        threshold: float | None = None,
    ) -> Evaluation:
        """Evaluate on labelled images; see `zoo.runs.evaluate.evaluate`.

        `threshold` is as in `predict`.
        """
        where = None if data is None else expand(data)
        return evaluate(
            self.model,
            self.backbone,
            at_threshold(self.info, threshold),
            where,
            Reading(
                split=split, strict=strict, follow_links=follow_links, allow_network=allow_network
            ),
            tta=tta,
        )


def load(path: str | Path, *, device: str = "auto") -> Run:
    """Load a run and build its model.

    A run may come from an untrusted source: no code in it is run, nothing outside it is read, and
    memory use is limited by the size of its backbone and of the file.

    Args:
        path: A run folder, or its model.safetensors, which may have been moved.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        RunError: If there is no run, or the file is damaged.
        PluginError: If the backbone's plugin is not installed or fails.
        WeightsError: If the weights don't fit the backbone.
    """
    path = expand(path)
    file = model_file(path)
    header, info = read_head(file)
    backbone = backbone_of(file, header, info)
    if info.definition:
        # It says how large the network is, and comes from the file.
        refuse_larger(backbone, len(info.class_names), header.shapes)
    model = build_empty(backbone, len(info.class_names))
    _refuse_more(file, header, model)
    load_whole(model, backbone, read_tensors(file, header))
    return Run(path=path, info=info, backbone=backbone, model=place(model, choose_device(device)))


def model_file(path: Path) -> Path:
    """Return the path of a run folder's model.safetensors; a path of a file is returned as it is.

    Raises:
        RunError: If model.safetensors is a link that leads out of the run folder.
    """
    if is_file(path):
        return path
    file = path / MODEL
    if is_file(file) and (target := leads_out(path, file)) is not None:
        raise RunError(
            f"{file} is a link that leads out of the run folder, to {target}; "
            f"give that file itself if it is meant"
        )
    return file


def read_info(file: Path) -> ModelInfo:
    """Read the metadata of a model.safetensors; the weights are not read.

    Raises:
        RunError: If there is no such file, zoo didn't write it, or it is damaged.
    """
    return read_head(file)[1]


def backbone_of(file: Path, header: Header, info: ModelInfo) -> Backbone:
    """Return the declaration of a run's backbone, at the run's input size and with its options.

    Raises:
        PluginError: If its plugin is not installed or fails.
        RunError: If it can't be built for the run's input size or options.
        WeightsError: If the file has no head for the run's classes.
    """
    try:
        backbone = plugins.get(info.backbone, info.definition or None)
    except PluginError as error:
        raise PluginError(
            f"{file} needs backbone {info.backbone}: {error.text}", hint=error.hint
        ) from error
    if info.definition and backbone.name != info.backbone:
        raise RunError(f"the definition of {info.backbone} in {file} is that of {backbone.name}")
    heads = [s for name, s in header.shapes.items() if in_head(name, backbone.head_paths)]
    classes = len(info.class_names)
    # Checked before the network is built, because its head takes memory in proportion to classes.
    if not any(classes in shape for shape in heads):
        found = ", ".join(map(str, heads[:4])) or "no tensor of it"
        raise WeightsError(
            f"the weights of {file} don't fit {backbone.name} with "
            f"{count(classes, 'class', 'classes')}: of its head "
            f"({', '.join(backbone.head_paths)}) the file has {found}"
        )
    try:
        built_for = variant_of(backbone, info)
    except (SizeError, OptionError) as error:
        raise RunError(f"{file}: {error.text}", hint=error.hint) from error
    given, taken = info.preprocess.channels, built_for.preprocess.channels
    if given != taken:
        raise RunError(f"{file}: images have {given} channels, and its network takes {taken}")
    return built_for


def variant_of(backbone: Backbone, info: ModelInfo) -> Backbone:
    """Return a run's backbone at the input size and with the options of the run.

    Raises:
        SizeError, OptionError: If it can't be built for them.
    """
    return variant(backbone, size=info.preprocess.size, options=info.recipe.backbone_options)


def read_tensors(file: Path, header: Header) -> dict[str, torch.Tensor]:
    """Read the tensors and verify their SHA-256.

    Raises:
        RunError: If they can't be read, or the SHA-256 does not match.
    """
    try:
        tensors = load_file(file)
    except Exception as error:  # unsupported shapes and types raise errors of any kind
        raise RunError(f"{file} is not a readable safetensors file: {clip(str(error))}") from error
    if tensors_sha256(tensors) != header.metadata.get("sha256"):
        raise RunError(f"{file} is damaged: its weights are not the ones that were written")
    return tensors


def _refuse_more(file: Path, header: Header, model: nn.Module) -> None:
    own = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if header.tensor_bytes > 2 * own + 2**20:
        raise RunError(
            f"{file} holds {header.tensor_bytes:,} bytes of weights, its backbone has {own:,}"
        )


def _as_iterable(images: Any) -> Iterable[Any]:
    one = isinstance(images, str | Path | bytes | Image.Image | np.ndarray | Sample)
    one = one or hasattr(images, "read") or not isinstance(images, Iterable)
    return [images] if one else images


def _path_of(image: Any) -> Path | None:
    if isinstance(image, Sample):
        return image.file
    return Path(image) if isinstance(image, str | Path) else None


def _decoded(image: AnyImage, preprocess: Preprocess, max_pixels: int) -> Image.Image:
    value_range, channels = preprocess.value_range, preprocess.channels
    if isinstance(image, str | Path):
        if is_url(image) and not Path(image).exists():
            raise DataError(f"{image} is a URL", hint="download it, and give the file or its bytes")
        return read_image(Path(image), value_range=value_range, channels=channels)
    if isinstance(image, Sample):
        content, name = image.read(), image.where
        return image_from_bytes(content, name, value_range=value_range, channels=channels)
    if hasattr(image, "read"):
        image = image.read()
    if isinstance(image, bytes):
        return image_from_bytes(
            image, value_range=value_range, channels=channels, max_pixels=max_pixels
        )
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if not isinstance(image, Image.Image):
        raise DataError(
            "an image is a path, bytes, a file opened in binary mode, a Pillow image or an array; "
            f"got {type(image).__name__}"
        )
    if 0 in image.size:
        raise DataError(f"an image must have pixels; this one has {image.width} x {image.height}")
    try:
        return to_channels(image, channels, value_range=value_range)
    except ValueError as error:
        raise DataError(f"an image can't be used: {error}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    channels = array.shape[2:]
    if array.dtype != np.uint8 or array.ndim < 2 or channels not in ((), (1,), (3,), (4,)):
        raise DataError(
            "an image array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8, "
            f"got {array.shape} {array.dtype}"
        )
    return Image.fromarray(array[..., 0] if channels == (1,) else array)
