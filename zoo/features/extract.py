"""Feature extraction with the frozen backbone, and fitting the head to the features."""

from __future__ import annotations

import math
import time

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.backbone import Backbone, Preprocess
from zoo.cache import Store
from zoo.data.dataset import ImageDataset, Index
from zoo.data.transforms import Transform
from zoo.errors import BoundaryError
from zoo.events import Listener, Note
from zoo.features.engine import features_by
from zoo.features.probe import Origin, Probe, fit_probe
from zoo.features.rows import collect, views_of
from zoo.features.stores import FrozenPart, Stores
from zoo.io.text import count
from zoo.machine.memory import out_of_memory_as
from zoo.models.boundary import find_boundary
from zoo.models.depth import Depths
from zoo.models.freeze import temporarily_frozen
from zoo.models.head import head_leaves
from zoo.models.replay import Boundary, replay
from zoo.recipe import Recipe
from zoo.tasks import TASKS, Metrics, Task


def probe_boundary(
    model: nn.Module, backbone: Backbone, depths: Depths, image_size: tuple[int, int]
) -> Boundary:
    """Return where the features of a probe are read: the input of the head's only leaf.

    Raises:
        BoundaryError: The logits are not an affine function of one row of features per image.
    """
    refusal = f"a probe can't be fitted to the head of backbone {backbone.name}: "
    leaves = head_leaves(model, backbone)
    if len(leaves) != 1:
        raise BoundaryError(f"{refusal}it has {len(leaves)} leaves ({', '.join(leaves)}), not one")
    ((path, leaf),) = leaves.items()
    if not isinstance(leaf, nn.Linear | nn.Conv2d) or leaf.bias is None:
        kind = type(leaf).__name__
        bias = " without a bias" if isinstance(leaf, nn.Linear | nn.Conv2d) else ""
        raise BoundaryError(f"{refusal}{path} is a {kind}{bias}")
    with temporarily_frozen(model, backbone, depths, frozen=len(depths), batch_norm="frozen"):
        boundary = find_boundary(model, backbone, image_size=image_size)
        noise = torch.Generator().manual_seed(0)
        rows = torch.randn(2, *boundary.shape, generator=noise).to(leaf.weight.device)
        affine = (
            boundary.name == f"the input of {path}"
            and rows[0].numel() * len(leaf.weight) == leaf.weight.numel()
        )
        if affine:
            with torch.no_grad():
                linear = torch.nn.functional.linear(
                    rows.flatten(1), leaf.weight.flatten(1), leaf.bias
                )
                affine = torch.allclose(replay(model, boundary, rows), linear, atol=1e-4)
    if not affine:
        raise BoundaryError(f"{refusal}its logits are not {path} of one row of features per image")
    return boundary


class Features:
    """Extraction of features (N, C) float32 from images by a frozen backbone.

    Attributes:
        computed: Number of rows that were in no store.
        rows: Number of all rows.
        seconds: Time spent, in seconds.
    """

    def __init__(
        self,
        model: nn.Module,
        part: FrozenPart,
        preprocess: Preprocess,
        accelerator: Accelerator,
        stores: Stores,
    ) -> None:
        self._compute = features_by(model, part, preprocess, accelerator.device)
        self._part, self._stores = part, stores
        self._accelerator = accelerator
        self.computed = self.rows = 0
        self.seconds = 0.0

    @property
    def origin(self) -> str:
        """Number of rows, and how many came from the cache, as text."""
        cached = "all" if not self.computed else f"{self.rows - self.computed} of them"
        return f"{count(self.rows, 'row')}, {cached} from the cache"

    def store(
        self, transform: Transform, wanted: list[tuple[ImageDataset, list[Index]]]
    ) -> Store | None:
        """Return the store that caches features of these images; None in other processes."""
        if not self._accelerator.is_main_process:
            return None
        return self._stores.rows("features", self._part, transform, wanted)

    def of(self, images: ImageDataset, views: int, store: Store | None, what: str) -> Tensor:
        """Return the features of each image, or of `views` augmented views of it, view by view.

        Args:
            images: The images.
            views: Number of augmented views; 0: the images without augmentation.
            store: Where features are cached, in the main process; None: they are not.
            what: Name of the images, for `Progress`.

        Raises:
            TrainingError: Memory is too small for one image.
            PluginError, RunError: As in `zoo.engines.choice.load_engine`.
        """
        started = time.perf_counter()
        indices = views_of(images, range(1, views + 1)) if views else views_of(images)
        found, computed = collect(
            images,
            indices,
            self._compute,
            store,
            accelerator=self._accelerator,
            what=what,
            listen=self._stores.listen,
        )
        self.computed += computed
        self.rows += len(found)
        self.seconds += time.perf_counter() - started
        return found.to(self._accelerator.device)


def train_probe(
    recipe: Recipe,
    num_classes: int,
    *,
    features: Tensor,
    targets: Tensor,
    groups: Tensor,
    class_weights: Tensor | None,
    listen: Listener,
) -> Probe:
    """Fit the probe of a run.

    Args:
        recipe: The resolved recipe; task, seed and label smoothing are used.
        num_classes: Number of outputs.
        features: (views * N, C) float32 of the train images as transformed for prediction, then of
            augmented views.
        targets: (N, ...) of the images.
        groups: (N,) int64, index of the group of each image.
        class_weights: (classes,), or None.
        listen: Receives a `Note` with the result.

    Raises:
        TrainingError: A feature is not finite, or memory is too small.
    """
    views = len(features) // len(targets)
    with out_of_memory_as(
        f"{features.device} has too little memory to fit a probe to "
        f"{count(len(features), 'row')} of {count(features.shape[1], 'feature')}",
        hint="try fewer `views`, another `device` or `train=finetune`",
    ):
        probe = fit_probe(
            features,
            torch.cat([targets] * views),
            num_classes,
            task=TASKS[recipe.task],
            origin=Origin(
                images=torch.arange(len(targets)).repeat(views), groups=groups.repeat(views)
            ),
            class_weights=class_weights,
            label_smoothing=recipe.label_smoothing,
            seed=recipe.seed,
        )
    text = (
        f"probe: {count(len(features), 'row')} of {count(features.shape[1], 'feature')}, penalty "
        f"{probe.penalty:.3g}; cross-validation: accuracy {probe.accuracy:.2%}, "
        f"log-loss {probe.loss:.3f}"
    )
    listen(Note(text=text, detail=True))
    return probe


@torch.no_grad()
def set_head(model: nn.Module, backbone: Backbone, probe: Probe) -> None:
    """Copy the weights of a probe into the head, whose only leaf is as `probe_boundary` ensures."""
    (leaf,) = head_leaves(model, backbone).values()
    for name, value in (("weight", probe.weight), ("bias", probe.bias)):
        parameter = leaf.get_parameter(name)
        parameter.copy_(value.view_as(parameter))


def measure_probe(
    probe: Probe, features: Tensor, targets: Tensor, task: Task, most: int | None = None
) -> Metrics:
    """Compute the metrics of a probe.

    Args:
        probe: The probe.
        features: (N, C).
        targets: (N, ...) as defined by the task.
        task: Defines the metrics.
        most: Most logits to compute; if there are more, rows are taken at regular intervals.
    """
    step = 1 if most is None else math.ceil(features.shape[0] * len(probe.weight) / most)
    return task.measure(probe.logits(features[::step]).cpu(), targets[::step])
