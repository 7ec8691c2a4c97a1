"""Features of images from a backbone as it is before training, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo import weights as zoo_weights
from zoo.backbone import Backbone, Preprocess
from zoo.data.dataset import ImageDataset, derive_seed
from zoo.data.decoded import DecodedImages, content_keys
from zoo.data.image import ValueRange
from zoo.data.sample import Sample
from zoo.data.transforms import Transform, eval_transform
from zoo.events import Listener, Note, ignore
from zoo.features.engine import choose_engine
from zoo.features.extract import Features, probe_boundary
from zoo.features.rows import rows_at_a_time, views_of
from zoo.features.stores import FrozenPart, Stores
from zoo.machine.device import choose_device, place
from zoo.machine.processes import make_accelerator
from zoo.models.build import build_from
from zoo.models.depth import depths
from zoo.models.replay import Boundary
from zoo.models.size import needs_resizing
from zoo.models.variant import check_options, variant
from zoo.recipe import Recipe, change


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Features of images.

    Attributes:
        features: (N, C) float32 on the CPU, in the order of the samples.
        computed: Number of rows that were not in the cache.
        seconds: Time spent on decoding, computing and reading them.
    """

    features: Tensor
    computed: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A backbone with its initial weights, placed on a device, whose features can be computed."""

    model: nn.Module
    backbone: Backbone
    boundary: Boundary
    preprocess: Preprocess
    recipe: Recipe
    accelerator: Accelerator
    source: str


def load_pretrained(
    backbone: Backbone,
    recipe: Recipe,
    *,
    value_range: ValueRange | None = None,
    accelerator: Accelerator | None = None,
    listen: Listener = ignore,
) -> Pretrained:
    """Build a backbone with its initial weights, as a run with that recipe does.

    torch's global random state is not changed.

    Args:
        backbone: The backbone, as declared.
        recipe: Of its fields, `weights`, `seed` (of random weights), `image_size`,
            `backbone_options`, `device`, `engine` and `cache_size` are used.
        value_range: As in `Splits`, for images of more than 8 bits.
        accelerator: That of the run; None: a new one for the recipe's device.
        listen: Receives a `Note` on weights that were skipped.

    Raises:
        WeightsError: The weights are unavailable, or do not fit.
        BoundaryError: The head allows no probe.
        SizeError, OptionError, TrainingError: The recipe asks for what the backbone or the machine
            can't do.
    """
    size, options = recipe.image_size, check_options(backbone, recipe.backbone_options)
    rebuilt = needs_resizing(backbone, size)
    backbone = variant(backbone, size=size, options=options)
    preprocess = backbone.preprocess
    if size is not None and not rebuilt:
        preprocess = replace(preprocess, size=size)
    if accelerator is None:
        accelerator = make_accelerator(choose_device(recipe.device), "fp32")
    loaded = zoo_weights.load(backbone, recipe.weights)
    for note in loaded.notes:
        listen(Note(text=note, warning=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "model"))
        # The features do not depend on the number of classes.
        model = build_from(backbone, 2, loaded)
        layers = depths(model, backbone)
        place(model, accelerator.device)
        boundary = probe_boundary(model, backbone, layers, preprocess.height_width)
    return Pretrained(
        model=model,
        backbone=backbone,
        boundary=boundary,
        preprocess=replace(preprocess, value_range=value_range),
        recipe=change(recipe, backbone_options=options, device=accelerator.device.type),
        accelerator=accelerator,
        source=loaded.source,
    )


def features_of(
    pretrained: Pretrained,
    samples: Sequence[Sample],
    transforms: Sequence[Transform] | None = None,
    *,
    listen: Listener = ignore,
) -> list[Embedded]:
    """Compute the features of images, or read those that a run or an earlier call has cached.

    Args:
        pretrained: From `load_pretrained`.
        samples: The images.
        transforms: Transforms of the images, for each of which features are returned. An
            augmentation must be deterministic. Default: the transform for prediction alone.
        listen: Receives `Progress`, and a `Note` if the features can't be cached.

    Returns:
        The features for each transform.

    Raises:
        DataError: An image can't be read, or has changed since it was first read.
        TrainingError: Memory is too small for one image, or the engine can't be used on the device.
        PluginError, RunError: As in `zoo.features.engine.choose_engine`.
    """
    found = []
    keys = content_keys(samples)
    transforms = transforms or [eval_transform(pretrained.preprocess)]
    part = _with_engine(pretrained, samples, transforms, listen)
    with Stores(pretrained.recipe, listen) as stores:
        for transform in transforms:
            images = ImageDataset(
                DecodedImages(samples, transform.prepare, keys=keys),
                augment=transform.augment,
                seed=pretrained.recipe.seed,
            )
            views = 0 if transform.augment is None else 1
            features = Features(
                pretrained.model, part, pretrained.preprocess, pretrained.accelerator, stores
            )
            store = features.store(transform, [(images, views_of(images, [views]))])
            rows = features.of(images, views, store, "features").cpu()
            found.append(
                Embedded(features=rows, computed=features.computed, seconds=features.seconds)
            )
    return found


def _with_engine(
    pretrained: Pretrained,
    samples: Sequence[Sample],
    transforms: Sequence[Transform],
    listen: Listener,
) -> FrozenPart:
    """Return the part of the network that gives features, with the engine that computes them."""
    recipe, preprocess = pretrained.recipe, pretrained.preprocess

    def sample() -> Tensor:
        some = samples[: rows_at_a_time(pretrained.accelerator.device)]
        images = ImageDataset(DecodedImages(some, eval_transform(preprocess).prepare))
        return images.batch(views_of(images))

    return choose_engine(
        recipe.engine,
        pretrained.model,
        FrozenPart.of(
            pretrained.model, pretrained.backbone, pretrained.boundary, recipe.backbone_options
        ),
        preprocess,
        pretrained.accelerator,
        images=len(samples) * len(transforms),
        sample=sample,
        listen=listen,
    )
