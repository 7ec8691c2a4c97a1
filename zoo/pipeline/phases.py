"""The stages of a run, probe and fine-tuning, with what each computes once and caches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from zoo.cache import Store
from zoo.data.check import examined_store, remember
from zoo.data.check.alignment import small_images
from zoo.data.check.compare import look_alike
from zoo.data.check.examine import Examined, by_content
from zoo.data.dataset import ImageDataset, derive_seed
from zoo.data.decoded import DecodedImages
from zoo.data.sample import Sample
from zoo.data.split import group_indices
from zoo.data.transforms import (
    SMALLEST_CROP,
    Transform,
    eval_transform,
    followed_by,
    mirrored_transform,
    to_input,
    train_transform,
)
from zoo.errors import CacheError
from zoo.events import EpochEnd, Listener, Note, Progress, epoch_metrics
from zoo.features.copies import MOST_PRODUCTS, describe_copies, find_copies_across
from zoo.features.engine import check_loads, choose_engine
from zoo.features.extract import Features, measure_probe, set_head, train_probe
from zoo.features.growth import MOST_WORK, measure_growth
from zoo.features.invariance import measure_change
from zoo.features.probe import MOST_KEPT, Origin, Probe, fit_probe
from zoo.features.rows import fill, rows_at_a_time, views_of
from zoo.features.stores import FrozenPart, Stores
from zoo.features.suspects import find_suspects
from zoo.features.transfer import choose_images, measure_transfer
from zoo.machine.device import place
from zoo.machine.processes import decide_on_main, together
from zoo.models.build import build_from
from zoo.models.replay import Boundary, activations
from zoo.pipeline.compatibility import DataKeys
from zoo.planning import Plan, Prepared
from zoo.planning.decisions import decide_change, decide_epochs
from zoo.recipe import Recipe, change
from zoo.recipe.fields import seconds_of
from zoo.runs.growth import Growth
from zoo.runs.temperature import FEW, Calibration, calibrate
from zoo.runs.transfer import Transfer, why_not_measured
from zoo.tasks import TASKS, UNMEASURED, Metrics, with_unlabelled
from zoo.training.adapters import attached
from zoo.training.batch_transform import batch_transform
from zoo.training.batches import Loaders, activation_loaders, image_loaders
from zoo.training.setup import Control, Setup
from zoo.training.signals import deferring
from zoo.training.snapshot import Snapshot, take
from zoo.training.state import TrainingState
from zoo.training.train import train
from zoo.weights import LoadedWeights

#: Maximum number of train images for testing whether an augmentation preserves labels.
_MOST_CHANGED = 1000

#: Maximum number of suspected labels that are kept for the report.
_MOST_SUSPECTS = 20

#: Beginning of the messages on why there is no verdict on transfer, unless the plan says so.
_NOT_MEASURED = "whether pretrained features help is not measured"


def run_stages(
    prepared: Prepared,
    keys: DataKeys,
    state: TrainingState,
    control: Control,
    *,
    origin: Mapping[str, Tensor],
    resumed: Snapshot | None,
    fit: Callable[[Setup, TrainingState, Control, Snapshot | None], None] | None = None,
) -> None:
    """Run the probe and fine-tuning, as the recipe says; `fit` replaces `train`.

    Raises:
        ZooError, Stopped: As in `train_probe` and `train`.
    """
    plan, listen = prepared.plan, control.listen
    task = TASKS[plan.recipe.task]
    class_weights = None
    if plan.recipe.class_weights != "none":
        class_weights = task.class_weights(plan.train_counts, plan.train_images)
    if resumed is None:
        state.micro_batch = plan.micro_batch
    if prepared.probe is not None and state.probed:
        _check_engine(prepared, prepared.probe, state)
    elif prepared.probe is not None:
        with Stores(plan.recipe, listen) as stores:
            probing = _Probing(prepared, prepared.probe, keys, class_weights, stores)
            end, val = probing.run(state)
        state.probed = True
        state.keep_best(0, val, plan.recipe.metric, task.main)
        with attached(prepared.adapters), deferring(control.stop):
            control.save(take(prepared.model, state), end)
            listen(end)
    recipe = change(plan.recipe, **state.decided)
    if recipe.train == "probe":
        return
    images = _with_unlabelled(_images(prepared, recipe, keys), prepared, recipe, keys)
    with Stores(recipe, listen) as stores:
        loaders, deadline = None, None
        if prepared.activations is None:
            loaders = _image_loaders(prepared, images, stores)
        # A run that was interrupted after the probe has not decided yet.
        if recipe.time is not None and "epochs" not in state.decided:
            deadline = prepared.started + seconds_of(recipe.time)
            epochs = decide_on_main(
                prepared.accelerator, lambda: _epochs(prepared, recipe, state, listen)
            )
            if not epochs and state.probed:
                return
            state.decided["epochs"] = max(1, epochs)
            recipe = change(recipe, epochs=max(1, epochs))
        if prepared.activations is not None:
            loaders = _activation_loaders(prepared, recipe, prepared.activations, images, stores)
        setup = Setup(
            model=prepared.model,
            backbone=prepared.backbone,
            recipe=recipe,
            depths=prepared.depths,
            freezing=prepared.freezing,
            settings=prepared.settings,
            accelerator=prepared.accelerator,
            loaders=loaders or _image_loaders(prepared, images, stores),
            origin=origin,
            task=task,
            baseline=plan.baseline,
            class_weights=class_weights,
            loss=prepared.custom.loss,
            batch_transform=batch_transform(recipe, _width(images.views, plan)),
            teacher=prepared.teacher,
            adapters=prepared.adapters,
            deadline=deadline,
        )
        with attached(prepared.adapters):
            (fit or train)(setup, state, control, resumed)


def _check_engine(prepared: Prepared, boundary: Boundary, state: TrainingState) -> None:
    """Check that features can be computed by the engine of the probe that a resumed run has fitted.

    At its end, the figures of the probe may be computed from them.

    Raises:
        PluginError, RunError: They can't.
    """
    recipe = change(prepared.plan.recipe, **state.decided)
    # Probes of earlier versions have no engine.
    if recipe.engine not in ("auto", "torch"):
        options = recipe.backbone_options
        part = FrozenPart.of(prepared.model, prepared.backbone, boundary, options, recipe.engine)
        check_loads(prepared.model, part, prepared.plan.preprocess)


def _epochs(prepared: Prepared, recipe: Recipe, state: TrainingState, listen: Listener) -> int:
    """Return how many epochs fit into the recipe's `time`."""
    if prepared.speed is None:
        return recipe.epochs
    return decide_epochs(
        recipe,
        prepared.speed,
        train_images=len(prepared.splits.train),
        val_images=len(prepared.splits.val),
        unlabelled=len(prepared.splits.unlabelled),
        spent=time.perf_counter() - prepared.started,
        probed=state.probed,
        listen=listen,
    )


@dataclass(frozen=True, kw_only=True)
class _Images:
    """The datasets of a run and their transforms."""

    plain: ImageDataset
    views: ImageDataset
    val: ImageDataset
    seen: Transform
    augmented: Transform


def _images(prepared: Prepared, recipe: Recipe, keys: DataKeys) -> _Images:
    splits, preprocess = prepared.splits, prepared.plan.preprocess
    task, classes = TASKS[recipe.task], len(splits.class_names)
    targets, val_targets = (
        task.targets(splits.indices(samples), classes) for samples in (splits.train, splits.val)
    )
    seen = eval_transform(preprocess)
    augmented = train_transform(
        preprocess,
        recipe.augment,
        recipe.hflip is not False,
        recipe.crop_scale,
        recipe.random_erasing,
    )
    if (step := prepared.custom.transform) is not None:
        augmented = followed_by(augmented, step, prepared.custom.names["transform"])
    if recipe.cache_size and prepared.accelerator.is_main_process:
        with examined_store() as store:
            remember(store, splits.examined)
    return _Images(
        plain=ImageDataset(DecodedImages(splits.train, seen.prepare, keys=keys.train), targets),
        views=ImageDataset(
            DecodedImages(splits.train, augmented.prepare, keys=keys.train),
            targets,
            augmented.augment,
            seed=recipe.seed,
            views=recipe.views or None,
            repeats=recipe.repeated_augmentation,
        ),
        val=ImageDataset(DecodedImages(splits.val, seen.prepare, keys=keys.val), val_targets),
        seen=seen,
        augmented=augmented,
    )


def _with_unlabelled(
    images: _Images, prepared: Prepared, recipe: Recipe, keys: DataKeys
) -> _Images:
    """Return the datasets with unlabelled images, if there are any, among the train views."""
    splits, views = prepared.splits, images.views
    if not splits.unlabelled:
        return images
    decoded = DecodedImages(
        [*splits.train, *splits.unlabelled],
        images.augmented.prepare,
        keys=[*keys.train, *keys.unlabelled],
    )
    targets = with_unlabelled(
        TASKS[recipe.task], views.targets, len(splits.unlabelled), len(splits.class_names)
    )
    joined = ImageDataset(
        decoded,
        targets,
        views.augment,
        seed=views.seed,
        views=views.views,
        repeats=views.repeats,
    )
    return replace(images, views=joined)


def _width(views: ImageDataset, plan: Plan) -> int:
    """Return the width of targets as shares of classes, to which unlabelled images add a column."""
    return views.targets.shape[1] if views.targets.ndim == 2 else len(plan.class_names)


class _Probing:
    """The probe stage: features, the choice of augmentations that preserve labels, the probe."""

    def __init__(
        self,
        prepared: Prepared,
        boundary: Boundary,
        keys: DataKeys,
        class_weights: Tensor | None,
        stores: Stores,
    ) -> None:
        self._prepared, self._keys = prepared, keys
        self._boundary, self._stores = boundary, stores
        self._class_weights, self._listen = class_weights, stores.listen
        plan = prepared.plan
        self._images = _images(prepared, plan.recipe, keys)
        part = self._with_engine()
        self._engine = part.engine
        self._num_classes = len(plan.class_names)
        self._task = TASKS[plan.recipe.task]
        self._groups = torch.tensor(group_indices(prepared.splits.train))
        self._features = Features(
            prepared.model, part, plan.preprocess, prepared.accelerator, stores
        )

    def run(self, state: TrainingState) -> tuple[EpochEnd, Metrics]:
        """Fit the probe, make it the model's head, and return its result as epoch 0."""
        started = time.perf_counter()
        prepared, plan = self._prepared, self._prepared.plan
        images = self._images
        plain = [(each, views_of(each)) for each in (images.plain, images.val)]
        store = self._features.store(images.seen, plain)
        features = self._features.of(images.plain, 0, store, "features")
        state.transfer = self._measure_transfer(features, images.plain.targets)
        val_features = None
        if len(images.val):
            val_features = self._features.of(images.val, 0, store, "val features")
        targets, val_targets = images.plain.targets, images.val.targets
        if plan.recipe.probe_views:
            plain_probe = self._on_main(
                partial(
                    fit_probe,
                    features,
                    targets,
                    self._num_classes,
                    task=self._task,
                    origin=Origin(images=torch.arange(len(targets)), groups=self._groups),
                    seed=plan.recipe.seed,
                )
            )
        else:
            probe = plain_probe = self._fit(features, targets)
        if val_features is not None:
            state.growth = decide_on_main(
                prepared.accelerator,
                partial(
                    measure_growth,
                    plain_probe,
                    prepared.splits.train,
                    (features, targets),
                    (val_features, val_targets),
                    num_classes=self._num_classes,
                    task=self._task,
                    seed=plan.recipe.seed,
                ),
            )
            self._say_growth(state.growth)
            state.copies = decide_on_main(
                prepared.accelerator, partial(self._find_copies, features, val_features)
            )
        state.suspects = decide_on_main(
            prepared.accelerator, lambda: self._find_suspects(features, targets, plain_probe)
        )
        state.decided = self._decide(features, targets, plain_probe.penalty)
        if self._engine != plan.recipe.engine:
            state.decided["engine"] = self._engine
        recipe = change(plan.recipe, **state.decided)
        if recipe.probe_views:
            images = _images(prepared, change(recipe, views=0), self._keys)
            views = views_of(images.views, range(1, recipe.probe_views + 1))
            store = self._features.store(images.augmented, [(images.views, views)])
            seen = self._features.of(images.views, recipe.probe_views, store, "features of views")
            features = torch.cat([features, seen])
            probe = self._fit(features, targets)
        self._listen(Note(text=f"features of {self._features.origin}", detail=True))
        repeated = torch.cat([targets] * (len(features) // len(targets)))
        learnt = measure_probe(probe, features, repeated, self._task, most=MOST_KEPT)
        if len(features) * self._num_classes > MOST_KEPT:
            text = f"train metrics of the probe: of {learnt.images:,} of {len(features):,} rows"
            self._listen(Note(text=text, detail=True))
        val = UNMEASURED
        if val_features is not None:
            val = measure_probe(probe, val_features, val_targets, self._task)
        state.calibration = self._calibrate(probe, targets, val_features, val_targets)
        end = EpochEnd(
            epoch=0,
            metrics=epoch_metrics(
                {name: learnt.values[name] for name in ("loss", "accuracy")}, val.values
            ),
            interpolation=0.0,
            lr_backbone=0.0,
            lr_head=0.0,
            seconds=time.perf_counter() - started,
            images_per_second=self._features.computed / self._features.seconds,
            data_seconds=0.0,
            best=True,
        )
        return end, val

    def _with_engine(self) -> FrozenPart:
        """Return the part of the network that gives features, with what computes them."""
        prepared, recipe = self._prepared, self._prepared.plan.recipe
        plain, device = self._images.plain, prepared.accelerator.device
        return choose_engine(
            recipe.engine,
            prepared.model,
            FrozenPart.of(
                prepared.model, prepared.backbone, self._boundary, recipe.backbone_options
            ),
            prepared.plan.preprocess,
            prepared.accelerator,
            images=len(plain) * (1 + (recipe.probe_views or 0)) + len(self._images.val),
            sample=lambda: plain.batch(views_of(plain)[: rows_at_a_time(device)]),
            listen=self._listen,
        )

    def _fit(self, features: Tensor, targets: Tensor) -> Probe:
        """Fit a probe, and make it the model's head."""
        probe = self._on_main(
            partial(
                train_probe,
                self._prepared.plan.recipe,
                self._num_classes,
                features=features,
                targets=targets,
                groups=self._groups,
                class_weights=self._class_weights,
                listen=self._listen,
            )
        )
        set_head(self._prepared.model, self._prepared.backbone, probe)
        return probe

    def _on_main(self, fit: Callable[[], Probe]) -> Probe:
        """Return the probe that the main process fits, on the device of this one."""
        accelerator = self._prepared.accelerator
        return decide_on_main(accelerator, lambda: fit().to("cpu")).to(accelerator.device)

    def _calibrate(
        self, probe: Probe, targets: Tensor, val_features: Tensor | None, val_targets: Tensor
    ) -> Calibration | None:
        """Calibrate the probe on out-of-fold predictions; None if val images are enough for it."""
        if len(val_targets) >= FEW or len(set(self._groups.tolist())) < 2:
            return None
        # The first row of each image is that without augmentation.
        plain = probe.held_out_rows < len(targets)
        logits, targets = probe.held_out[plain], targets[probe.held_out_rows[plain]]
        if val_features is not None:
            logits = torch.cat([logits, probe.logits(val_features).cpu()])
            targets = torch.cat([targets, val_targets])
        return decide_on_main(
            self._prepared.accelerator, partial(calibrate, logits, targets, self._task, probe=True)
        )

    def _find_suspects(
        self, features: Tensor, targets: Tensor, probe: Probe
    ) -> list[tuple[str, str, str, float]] | None:
        """Return the train labels that are probably wrong, for the report; None if it is slow."""
        if not self._task.exclusive or features.numel() * self._num_classes > MOST_WORK:
            return None
        recipe = self._prepared.plan.recipe
        # The probe that is fitted without augmented views may have weights or smoothed targets.
        plain = recipe.probe_views or (self._class_weights is None and not recipe.label_smoothing)
        known = plain and len(probe.held_out) == len(targets)
        found = find_suspects(
            features,
            targets,
            self._num_classes,
            task=self._task,
            groups=self._groups,
            seed=recipe.seed,
            held_out=probe.held_out if known else None,
        )
        names, samples = self._prepared.plan.class_names, self._prepared.splits.train
        return [
            (samples[s.position].name, names[s.label], names[s.suggested], round(s.probability, 4))
            for s in found.ranked[:_MOST_SUSPECTS]
        ]

    def _find_copies(self, features: Tensor, val_features: Tensor) -> list[tuple[str, str]] | None:
        """Find images of val and train of which one is a crop of the other, or mirrored.

        Copies that the checks before training have found by hash are left out. The listener
        receives a warning, or a `Note` on what was not compared.
        """
        if len(features) * val_features.numel() > MOST_PRODUCTS:
            text = "crops and mirrored copies in train and val are not looked for: too many images"
            self._listen(Note(text=f"{text}; zoo data check finds them if asked for labels"))
            return None
        splits = self._prepared.splits
        train, val = splits.train, splits.val
        examined = by_content(splits.examined)

        def result(sample: Sample) -> Examined | None:
            return None if sample.content is None else examined.get(sample.content.key)

        def known(one: int, other: int) -> bool:
            of_val, of_train = result(val[one]), result(train[other])
            return of_val is not None and of_train is not None and look_alike(of_val, of_train)

        def pixels(chosen: list[int]) -> Tensor:
            samples = [val[n] if n < len(val) else train[n - len(val)] for n in chosen]
            return small_images(samples, splits.value_range)

        found, left_out = find_copies_across(val_features, features, pixels, known)
        if left_out:
            text = f"{left_out:,} less similar pairs of val and train images are not compared"
            self._listen(Note(text=text, detail=True))
        pairs = [(val[copy.one].name, train[copy.other - len(val)].name) for copy in found]
        if pairs:
            text = f"{describe_copies(pairs)}; zoo data check lists them if asked for labels"
            self._listen(Note(text=text, warning=True))
        return pairs

    def _say_growth(self, growth: Growth | None) -> None:
        if growth is not None and growth.gain is not None:
            low, high = (round(100 * value, 1) for value in growth.gain[1:])
            text = (
                f"twice as many train images: accuracy +{low:g} to +{high:g} points, by the probe"
            )
            self._listen(Note(text=text, detail=True))

    def _measure_transfer(self, features: Tensor, targets: Tensor) -> Transfer | None:
        """Compare the features with those of random weights.

        Completes the plan: the listener receives the `Transfer`, or a `Note` if it is impossible.
        """
        prepared, recipe = self._prepared, self._prepared.plan.recipe
        if why_not_measured(recipe) is not None:
            return None
        chosen = choose_images(
            targets,
            self._num_classes,
            self._task,
            finetunes=recipe.train != "probe",
            seed=recipe.seed,
        )
        samples = [prepared.splits.train[n] for n in chosen.positions]
        groups = torch.tensor(group_indices(samples))
        if len(set(groups.tolist())) < 2:
            self._listen(Note(text=f"{_NOT_MEASURED}: all train images are of one group"))
            return None
        seen = eval_transform(prepared.plan.preprocess)
        keys = [self._keys.train[n] for n in chosen.positions]
        images = ImageDataset(DecodedImages(samples, seen.prepare, keys=keys))
        random = self._random_features(images, seen)
        if not bool(random.isfinite().all()):
            self._listen(Note(text=f"{_NOT_MEASURED}: features of random weights are not finite"))
            return None
        positions = torch.tensor(chosen.positions, device=features.device)
        transfer = decide_on_main(
            prepared.accelerator,
            partial(
                measure_transfer,
                features[positions],
                random,
                chosen,
                groups,
                task=self._task,
                metric=recipe.metric,
            ),
        )
        self._listen(transfer)
        return transfer

    def _random_features(self, images: ImageDataset, transform: Transform) -> Tensor:
        """Return the features (N, C) by the same network with random weights."""
        prepared, plan = self._prepared, self._prepared.plan
        with torch.random.fork_rng(devices=[]):
            # The same for all runs, so that each finds the features that another one has cached.
            torch.manual_seed(derive_seed(0, "random network"))
            model = build_from(
                prepared.backbone,
                self._num_classes,
                LoadedWeights(state_dict=None, source="random"),
            )
        place(model, prepared.accelerator.device)
        # By torch: another engine would have to convert this network for a few images.
        part = FrozenPart.of(model, prepared.backbone, self._boundary, plan.recipe.backbone_options)
        features = Features(model, part, plan.preprocess, prepared.accelerator, self._stores)
        store = features.store(transform, [(images, views_of(images))])
        return features.of(images, 0, store, "features of random weights")

    def _decide(
        self, features: Tensor, targets: Tensor, penalty: float
    ) -> dict[str, bool | int | float | str]:
        """Decide the augmentation fields that the recipe leaves open, by cross-validation."""
        recipe, preprocess = self._prepared.plan.recipe, self._prepared.plan.preprocess
        augments = recipe.augment != "none" and (recipe.train != "probe" or recipe.probe_views)
        decided: dict[str, bool | int | float | str] = {}
        if not augments:
            return decided
        samples = self._prepared.splits.train
        drawn = torch.Generator().manual_seed(derive_seed(recipe.seed, "changes"))
        some = torch.randperm(len(samples), generator=drawn)[:_MOST_CHANGED].sort().values
        features, targets = features[some.to(features.device)], targets[some]
        smallest = SMALLEST_CROP[recipe.augment]
        for name, transform in (
            ("hflip", mirrored_transform(preprocess)),
            ("crop_scale", train_transform(preprocess, "light", hflip=False, crop_scale=smallest)),
        ):
            if getattr(recipe, name) is not None:
                continue
            changed = ImageDataset(
                DecodedImages(
                    [samples[n] for n in some.tolist()],
                    transform.prepare,
                    keys=[self._keys.train[n] for n in some.tolist()],
                ),
                augment=transform.augment,
                seed=recipe.seed,
            )
            store = self._features.store(transform, [(changed, views_of(changed, [1]))])
            rows = self._features.of(changed, 1, store, "features of changed images")
            found = decide_on_main(
                self._prepared.accelerator,
                partial(
                    measure_change,
                    features,
                    rows,
                    targets,
                    self._num_classes,
                    penalty,
                    self._task,
                    self._groups[some].tolist(),
                ),
            )
            decided[name], text = decide_change(name, found, smallest)
            self._listen(Note(text=text))
        return decided


def _image_loaders(prepared: Prepared, images: _Images, stores: Stores) -> Loaders:
    """Return loaders of images from files, which are decoded once if they fit into the cache.

    One process of each machine fills the cache; the others read it from then on.
    """
    recipe, accelerator = prepared.plan.recipe, prepared.accelerator
    fills = accelerator.is_local_main_process
    for dataset, transform in ((images.views, images.augmented), (images.val, images.seen)):
        decoded = dataset.decoded
        cache = partial(stores.images, transform.prepare, decoded.keys)
        progress = partial(_say_progress, stores.listen)
        if fills:
            decoded.store = cache()
        try:
            together(partial(decoded.fill, progress))
        except CacheError as error:
            stores.listen(Note(text=f"images are not cached any further: {error}", warning=True))
        if not fills:
            decoded.store = cache()
    return image_loaders(
        images.views,
        images.val,
        prepared.plan.preprocess,
        batch_size=prepared.plan.recipe.step_images(prepared.plan.processes),
        workers=recipe.workers or 0,
        accelerator=accelerator,
    )


def _say_progress(listen: Listener, done: int, total: int) -> None:
    listen(Progress(what="images", done=done, total=total))


def _activation_loaders(
    prepared: Prepared,
    recipe: Recipe,
    boundary: Boundary,
    images: _Images,
    stores: Stores,
) -> Loaders | None:
    """Return loaders of cached activations of all train and val views; None if not cacheable."""
    accelerator, model = prepared.accelerator, prepared.model
    drawn = recipe.views or recipe.epochs * recipe.repeated_augmentation
    views = views_of(images.views, range(1, drawn + 1))
    part = FrozenPart.of(model, prepared.backbone, boundary, recipe.backbone_options)
    kept: list[Store] = []
    for what, dataset, transform, indices, precision in (
        ("activations", images.views, images.augmented, views, prepared.plan.recipe.precision),
        ("val activations", images.val, images.seen, views_of(images.val), "fp32"),
    ):
        store = stores.rows(
            "activations", replace(part, precision=precision), transform, [(dataset, indices)]
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
                listen=stores.listen,
            )
        except CacheError as error:
            stores.listen(Note(text=f"activations are not cached: {error}", warning=True))
            return None
    return activation_loaders(
        images.views,
        images.val,
        train_store=kept[0],
        val_store=kept[1],
        model=model,
        boundary=boundary,
        batch_size=prepared.plan.recipe.step_images(prepared.plan.processes),
        device=accelerator.device,
    )
