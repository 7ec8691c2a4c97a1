"""What a training loop of one's own takes from zoo, and how it ends in a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo import plugins
from zoo.backbone import Backbone, Preprocess
from zoo.data.decoded import DecodedImages
from zoo.data.labelled import Datasets, ImageTransform, LabelledImages, Transforms
from zoo.data.transforms import eval_transform, followed_by, train_transform
from zoo.errors import RecipeError, WeightsError
from zoo.events import EpochEnd, Listener, epoch_metrics
from zoo.models.build import load_whole
from zoo.models.variant import check_options
from zoo.pipeline.compatibility import DataKeys
from zoo.pipeline.finetune import execute, warn
from zoo.pipeline.loggers import open_loggers, with_loggers
from zoo.planning import Prepared, prepare
from zoo.planning.auto import AUTO
from zoo.planning.config import Resolver
from zoo.planning.decisions import decide_augmentation, decide_for_demo, decide_task
from zoo.planning.inputs import as_asked, read_data
from zoo.recipe import Recipe, change, make_recipe
from zoo.runs.inference import eval_batches, predict_logits
from zoo.runs.read import Run
from zoo.tasks import TASKS, UNMEASURED
from zoo.training.custom import NO_CUSTOM, Custom
from zoo.training.setup import Control
from zoo.training.snapshot import Snapshot, take
from zoo.training.state import TrainingState

#: What a run records of its training.
LOOP = "by other code"


def datasets(
    data: str | Path | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    transformed: bool = True,
    listen: Listener | None = None,
    **fields: Any,
) -> Datasets:
    """Return the train, val and test images of any source, split as in a run of this recipe.

        train, val, test = zoo.datasets("photos", backbone="resnet18")
        loader = torch.utils.data.DataLoader(train, batch_size=16, shuffle=True)

    Args:
        data: As in `zoo.finetune`. Default: the recipe's, or else the demo.
        recipe: As in `zoo.finetune`. Of its fields, those of data, augmentation and input matter.
        transformed: Whether images are transformed as a run does it: to (C, H, W) float32,
            normalised, and augmented in train. Else they are Pillow images.
        listen: As in `zoo.finetune`.
        **fields: Fields of `zoo.Recipe`.

    Returns:
        A dataset for each split, which is empty if the source has no such images.

    Raises:
        ZooError: The data or a setting is invalid.
    """
    listen = listen or warn
    if data is not None:
        fields["data"] = data
    resolver, backbone = _resolver(make_recipe(recipe, **fields), fields, listen)
    decide_for_demo(resolver, backbone, listen)
    backbone, preprocess = as_asked(backbone, resolver.recipe, listen)
    splits = read_data(resolver.recipe, listen, channels=preprocess.channels)
    decide_task(resolver, splits, listen)
    preprocess = replace(preprocess, value_range=splits.value_range)
    task, found = TASKS[resolver.recipe.task], _transforms(resolver.recipe, preprocess)
    made = [
        LabelledImages(
            samples,
            task.targets(splits.indices(samples), len(splits.class_names)),
            class_names=splits.class_names,
            preprocess=preprocess,
            transform=transform if transformed else None,
        )
        for samples, transform in (
            (splits.train, found.train),
            (splits.val, found.eval),
            (splits.test, found.eval),
        )
    ]
    return Datasets(*made)


def transforms(
    backbone: str | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    listen: Listener | None = None,
    **fields: Any,
) -> Transforms:
    """Return the train and eval transforms of a backbone, as a run of this recipe uses them.

        train, eval_ = zoo.transforms("resnet18", augment="strong")
        eval_(Image.open("photo.jpg"))  # (3, 224, 224) float32

    `hflip` and `crop_scale`, which a run may decide by a probe, have their defaults if they are not
    set: mirrored, and crops of at least 0.25 of the image (0.2 with `augment="strong"`).

    Args:
        backbone: Name of the backbone. Default: the recipe's.
        recipe: As in `zoo.finetune`. Of its fields, those of augmentation and input matter.
        listen: As in `zoo.finetune`.
        **fields: Fields of `zoo.Recipe`.

    Raises:
        ZooError: The backbone is unknown, or a setting is invalid.
    """
    listen = listen or warn
    if backbone is not None:
        fields["backbone"] = backbone
    resolver, declared = _resolver(make_recipe(recipe, **fields), fields, listen)
    _, preprocess = as_asked(declared, resolver.recipe, listen)
    return _transforms(resolver.recipe, preprocess)


def save_run(
    model: nn.Module,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    listen: Listener | None = None,
    loggers: Sequence[str] = (),
    report: bool = True,
    **fields: Any,
) -> Run:
    """Write the run folder of a model that other code has trained.

        model = zoo.build("resnet18", num_classes=2)
        ...  # any training loop, on zoo.datasets("photos", backbone="resnet18")
        run = zoo.save_run(model, "photos", backbone="resnet18", epochs=3)

    The model is measured on the val and test images, and its probabilities are calibrated, as at
    the end of `zoo.finetune`. The run folder has all that a run of zoo has, and says in its card,
    its report and its `info.custom` that zoo didn't train it. There is nothing to resume.

    Args:
        model: The trained model, from `zoo.build` with the same backbone, options and image size,
            and as many classes as the data has, in the order of `zoo.datasets`. Not changed. Of a
            wrapped model (DistributedDataParallel, torch.compile), give the bare one.
        data: As in `zoo.finetune`: the images the model was trained on.
        out: As in `zoo.finetune`.
        recipe: As in `zoo.finetune`. The fields of data, backbone and input must be those of
            training; `weights` is what the model was built with; `epochs` is recorded. Others, such
            as `lr`, are recorded as they are given.
        listen: As in `zoo.finetune`.
        loggers: As in `zoo.finetune`.
        report: As in `zoo.finetune`.
        **fields: Fields of `zoo.Recipe`.

    Returns:
        The run, read back from its folder.

    Raises:
        ZooError: A setting or the data is invalid, the model's weights don't fit the backbone and
            the classes, or its scores are not finite. Nothing is left in `out`.
    """
    if not isinstance(model, nn.Module):
        raise WeightsError(
            f"`model` is of type {type(model).__name__}",
            hint="give the network itself, a torch.nn.Module",
        )
    listen = with_loggers(listen or warn, open_loggers(loggers))
    if data is not None:
        fields["data"] = data
    made = make_recipe(recipe, **{"train": "finetune", **fields})
    _refuse_training(made)
    prepared = prepare(made, given=fields, out=out, custom=Custom(loop=LOOP), listen=listen)
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return execute(prepared, listen, report=report, stages=partial(_given_stage, weights))


def _given_stage(
    weights: dict[str, Tensor],
    prepared: Prepared,
    keys: DataKeys,
    state: TrainingState,
    control: Control,
    *,
    origin: Mapping[str, Tensor],
    resumed: Snapshot | None,
) -> None:
    """Take the place of training: load the given weights, measure them, and save them.

    Arguments after `weights` are those of `zoo.pipeline.phases.run_stages`.
    """
    del origin, resumed
    model, plan, splits = prepared.model, prepared.plan, prepared.splits
    load_whole(model, prepared.backbone, weights)
    task, val = TASKS[plan.recipe.task], UNMEASURED
    if splits.val:
        prepare_image = eval_transform(plan.preprocess).prepare
        batches = eval_batches(DecodedImages(splits.val, prepare_image, keys=keys.val))
        targets = task.targets(splits.indices(splits.val), len(splits.class_names))
        val = task.measure(predict_logits(model, batches, plan.preprocess), targets)
    state.epoch = plan.recipe.epochs
    end = EpochEnd(
        epoch=state.epoch,
        metrics=epoch_metrics({}, val.values),
        interpolation=1.0,
        lr_backbone=0.0,
        lr_head=0.0,
        seconds=0.0,
        images_per_second=0.0,
        data_seconds=0.0,
        best=state.keep_best(state.epoch, val, plan.recipe.metric, task.main),
    )
    control.save(take(model, state), end)
    control.listen(end)


def _resolver(
    recipe: Recipe, given: Mapping[str, Any], listen: Listener
) -> tuple[Resolver, Backbone]:
    """Return the resolver of a recipe, with its augmentation decided, and the backbone."""
    if recipe.backbone == AUTO:
        raise RecipeError(
            f"`backbone` = {AUTO}: only a run can choose it", hint="name one, or use zoo.compare"
        )
    resolver = Resolver(recipe, given, listen=listen)
    backbone = plugins.get(recipe.backbone)
    resolver.spell_out(backbone_options=check_options(backbone, recipe.backbone_options))
    decide_augmentation(resolver)
    return resolver, backbone


def _transforms(recipe: Recipe, preprocess: Preprocess) -> Transforms:
    train = train_transform(
        preprocess,
        recipe.augment,
        recipe.hflip is not False,
        recipe.crop_scale,
        recipe.random_erasing,
    )
    custom = NO_CUSTOM.with_declared(change(recipe, loss=None))
    if custom.transform is not None:
        train = followed_by(train, custom.transform, custom.names["transform"])
    return Transforms(
        train=ImageTransform(transform=train, preprocess=preprocess),
        eval=ImageTransform(transform=eval_transform(preprocess), preprocess=preprocess),
    )


def _refuse_training(recipe: Recipe) -> None:
    """Refuse settings that other code can't have followed.

    Raises:
        RecipeError: There are such settings.
    """
    asked = {
        f"`train` = {recipe.train}": recipe.train != "finetune",
        f"`folds` = {recipe.folds}": recipe.needs_folds,
        f"`time` = {recipe.time}": recipe.time is not None,
        f"`steps` = {recipe.steps}": recipe.steps is not None,
        f"`samples` = {recipe.samples}": recipe.samples is not None,
        f"`lora_rank` = {recipe.lora_rank}": recipe.lora_rank is not None,
        f"`backbone` = {recipe.backbone}": recipe.backbone == AUTO,
    }
    if wrong := [text for text, on in asked.items() if on]:
        raise RecipeError(
            f"{wrong[0]} has no meaning for a model that is trained already", hint="leave it out"
        )
