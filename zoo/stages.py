"""The stages of a run: a probe, fine-tuning; each with what is computed once and kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from zoo.cache import Store
from zoo.data.bases import Bases
from zoo.data.dataset import ImageDataset
from zoo.data.doctor import examined_store, remember
from zoo.data.transforms import Transform, eval_transform, to_input, train_transform
from zoo.engine.checkpointing import Save, Snapshot, take
from zoo.engine.events import EpochEnd, Listener, Note, Progress
from zoo.engine.feed import Feed, activation_feed, image_feed
from zoo.engine.frozen import fill, views_of
from zoo.engine.probing import train_probe
from zoo.engine.state import TrainingState
from zoo.engine.stopping import StopRequest, deferring
from zoo.engine.stores import Stores, backbone_sha256, image_store, row_store
from zoo.engine.train import train
from zoo.errors import CacheError
from zoo.model.replay import Boundary, activations
from zoo.planning import Prepared
from zoo.resuming import DataKeys


def run_stages(
    prepared: Prepared,
    keys: DataKeys,
    *,
    state: TrainingState,
    resumed: Snapshot | None,
    class_weights: Tensor | None,
    save: Save,
    last: Callable[[], Snapshot],
    stop: StopRequest,
    listen: Listener,
) -> None:
    """Probe and fine-tune, as the recipe says.

    Args:
        prepared: Ready to start.
        keys: Of the images' contents.
        state: Where training is: at its beginning, or as in `resumed`.
        resumed: What training goes on from.
        class_weights: Weight of each class in the loss (C,), or None.
        save: Keeps a snapshot: after the probe, after each epoch and within one.
        last: The snapshot kept last.
        stop: Whether to stop.
        listen: Hears what happens.

    Raises:
        ZooError, Stopped: As `train_probe` and `train`.
    """
    recipe = prepared.plan.recipe
    images = _images(prepared, keys)
    if resumed is None:
        state.micro_batch = prepared.plan.micro_batch
    if prepared.probe is not None and not state.probed:
        with Stores() as stores:
            end = _probe(prepared, prepared.probe, images, class_weights, stores, listen)
        state.probed = True
        state.best_accuracy, state.best_loss = end.val_accuracy, end.val_loss
        with deferring(stop):
            save(take(prepared.model, state), end)
            listen(end)
    if recipe.train == "probe":
        return
    with Stores() as stores:
        feed = None
        if prepared.activations is not None:
            feed = _activation_feed(prepared, prepared.activations, images, stores, listen)
        train(
            prepared.model,
            prepared.backbone,
            recipe,
            depths=prepared.depths,
            freezing=prepared.freezing,
            accelerator=prepared.accelerator,
            feed=feed or _image_feed(prepared, images, stores, listen),
            state=state,
            resumed=resumed,
            class_weights=class_weights,
            save=save,
            last=last,
            stop=stop,
            listen=listen,
        )


@dataclass(frozen=True, kw_only=True)
class _Images:
    """The images of a run.

    Attributes:
        plain: Train images as prediction sees them.
        views: Train images, augmented.
        val: Held-out images as prediction sees them.
        seen: How an image is made as prediction sees it.
        augmented: How it is for training.
    """

    plain: ImageDataset
    views: ImageDataset
    val: ImageDataset
    seen: Transform
    augmented: Transform


def _images(prepared: Prepared, keys: DataKeys) -> _Images:
    recipe, splits = prepared.plan.recipe, prepared.splits
    seen = eval_transform(prepared.plan.preprocess)
    augmented = train_transform(prepared.plan.preprocess, recipe.augment, recipe.hflip)

    if recipe.cache_size and prepared.accelerator.is_main_process:
        with examined_store() as store:
            remember(store, splits.examined)
    return _Images(
        plain=ImageDataset(Bases(splits.train, seen.prepare, keys=keys.train)),
        views=ImageDataset(
            Bases(splits.train, augmented.prepare, keys=keys.train),
            augmented.augment,
            seed=recipe.seed,
            views=recipe.views or None,
        ),
        val=ImageDataset(Bases(splits.val, seen.prepare, keys=keys.val)),
        seen=seen,
        augmented=augmented,
    )


def _probe(
    prepared: Prepared,
    boundary: Boundary,
    images: _Images,
    class_weights: Tensor | None,
    stores: Stores,
    listen: Listener,
) -> EpochEnd:
    recipe = prepared.plan.recipe
    store = partial(
        row_store,
        "features",
        boundary,
        backbone=prepared.backbone,
        weights_sha256=backbone_sha256(prepared.model, prepared.backbone),
        precision="fp32",
        recipe=recipe,
        stores=stores,
        listen=listen,
    )
    plain = [(images.plain, views_of(images.plain)), (images.val, views_of(images.val))]
    views = views_of(images.views, range(1, (recipe.views or 0) + 1))
    main = prepared.accelerator.is_main_process
    return train_probe(
        prepared.model,
        prepared.backbone,
        recipe,
        boundary=boundary,
        preprocess=prepared.plan.preprocess,
        train=images.plain,
        views=images.views,
        val=images.val,
        store=store(images.seen, plain) if main else None,
        views_store=store(images.augmented, [(images.views, views)]) if main and views else None,
        num_classes=len(prepared.plan.class_names),
        class_weights=class_weights,
        accelerator=prepared.accelerator,
        listen=listen,
    )


def _image_feed(prepared: Prepared, images: _Images, stores: Stores, listen: Listener) -> Feed:
    """Images from files, decoded once where the copies fit into the cache."""
    recipe, accelerator = prepared.plan.recipe, prepared.accelerator
    for dataset, transform in ((images.views, images.augmented), (images.val, images.seen)):
        bases = dataset.bases
        bases.store = image_store(transform.prepare, bases.keys, recipe, stores, listen)
        try:
            bases.fill(lambda done, total: listen(Progress(what="images", done=done, total=total)))
        except CacheError as error:
            listen(Note(text=f"images are not cached any further: {error}", warning=True))
    return image_feed(
        images.views,
        images.val,
        prepared.plan.preprocess,
        batch_size=prepared.plan.batch_size,
        workers=recipe.workers or 0,
        device=accelerator.device,
    )


def _activation_feed(
    prepared: Prepared,
    boundary: Boundary,
    images: _Images,
    stores: Stores,
    listen: Listener,
) -> Feed | None:
    """Activations of all that training and validation will see; None where they can't be kept."""
    recipe, accelerator, model = prepared.plan.recipe, prepared.accelerator, prepared.model
    views = views_of(images.views, range(1, (recipe.views or recipe.epochs) + 1))
    weights_sha256 = backbone_sha256(model, prepared.backbone)
    kept: list[Store] = []
    for what, dataset, transform, indices, precision in (
        ("activations", images.views, images.augmented, views, prepared.plan.precision),
        ("val activations", images.val, images.seen, views_of(images.val), "fp32"),
    ):
        store = row_store(
            "activations",
            boundary,
            transform,
            [(dataset, indices)],
            backbone=prepared.backbone,
            weights_sha256=weights_sha256,
            precision=precision,
            recipe=recipe,
            stores=stores,
            listen=listen,
        )
        if store is None:
            return None
        kept.append(store)

        def compute(pixels: Tensor, precision: str = precision) -> Tensor:
            inputs = to_input(pixels, prepared.plan.preprocess, accelerator.device)
            with nullcontext() if precision == "fp32" else accelerator.autocast():
                return activations(model, boundary, inputs)

        try:
            fill(
                dataset,
                indices,
                compute,
                store,
                device=accelerator.device,
                what=what,
                listen=listen,
            )
        except CacheError as error:
            listen(Note(text=f"activations are not cached: {error}", warning=True))
            return None
    return activation_feed(
        images.views,
        images.val,
        train_store=kept[0],
        val_store=kept[1],
        model=model,
        boundary=boundary,
        batch_size=prepared.plan.batch_size,
        device=accelerator.device,
    )
