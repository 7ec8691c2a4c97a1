"""The teacher of a run with distillation: loaded, and checked against the data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import torch
from accelerate import Accelerator

from zoo.backbone import Preprocess
from zoo.data.sources.layout import normal_name
from zoo.data.split import Splits, names_sha256
from zoo.errors import RecipeError, RunError
from zoo.events import Listener, Note
from zoo.io.files import expand
from zoo.io.text import listed
from zoo.machine.device import place
from zoo.machine.processes import decide_on_main, together
from zoo.planning.config import Resolver
from zoo.recipe import Recipe
from zoo.runs.read import Run, load
from zoo.tasks import TASKS, Distillation
from zoo.training.teacher import Teacher
from zoo.weights import tensors_sha256

#: Maximum number of class names that an error lists.
_EXAMPLES = 5


def load_teacher(
    resolver: Resolver,
    splits: Splits,
    preprocess: Preprocess,
    accelerator: Accelerator,
    listen: Listener,
) -> Teacher | None:
    """Load the run that the recipe names as teacher; None without one.

    With several processes, each loads it; all must find the same weights.

    Args:
        resolver: Of the recipe, whose task is decided.
        splits: The images.
        preprocess: Preprocessing of the student.
        accelerator: Says on which device it computes.
        listen: Receives a `Note` on the teacher, and a warning if its val images are others.

    Raises:
        RunError: There is no such run, it can't be loaded, or processes find different ones.
        RecipeError: It has other classes, another task or another number of channels.
    """
    recipe = resolver.recipe
    if recipe.teacher is None or recipe.train == "probe":
        return None
    run = together(partial(load, recipe.teacher, device="cpu"))
    columns = together(lambda: _columns(run, recipe, splits.class_names, preprocess))
    sha256 = tensors_sha256(run.model.state_dict())
    of_main = decide_on_main(accelerator, lambda: sha256)
    together(lambda: _check_same(recipe, sha256, of_main))
    info = run.info
    text = f"teacher {recipe.teacher}: {info.backbone}, {info.score_text}"
    if preprocess.height_width != info.preprocess.height_width:
        sizes = ["{} x {}".format(*p.height_width) for p in (preprocess, info.preprocess)]
        text += f"; it sees images of {sizes[0]} pixels, resized to {sizes[1]}"
    listen(Note(text=text))
    if splits.val and info.val_sha256 != names_sha256(splits.val):
        text = (
            "the teacher was trained with other val images than this run has: it may have learnt "
            "from images that this run is measured on, which makes val figures too good"
        )
        listen(Note(text=text, warning=True))
    resolver.spell_out(teacher=os.path.realpath(expand(recipe.teacher)))
    return Teacher(
        model=place(run.model, accelerator.device).eval().requires_grad_(False),
        preprocess=info.preprocess,
        columns=torch.tensor(columns, device=accelerator.device),
        criterion=Distillation(
            task=TASKS[recipe.task],
            num_classes=len(splits.class_names),
            weight=recipe.distill_weight or 0.0,
            temperature=recipe.distill_temperature or 1.0,
        ),
        sha256=sha256,
        about={"backbone": info.backbone, "sha256": sha256, "score": info.score_text},
    )


def _columns(
    run: Run, recipe: Recipe, class_names: Sequence[str], preprocess: Preprocess
) -> list[int]:
    """Return the index of each class in the teacher's logits."""
    where = f"teacher {recipe.teacher}"
    if run.info.task != recipe.task:
        raise RecipeError(
            f"{where} is a {run.info.task} run, and this is a {recipe.task} one",
            hint="set `task`, or give another `teacher`",
        )
    # Runs of earlier versions store class names that are not normalised.
    index = {normal_name(name): n for n, name in enumerate(run.class_names)}
    lacking = [name for name in class_names if name not in index]
    more = sorted(index.keys() - {*class_names})
    if lacking or more:
        differences = [f"it lacks {listed(lacking, _EXAMPLES)}"] if lacking else []
        differences += [f"it also has {listed(more, _EXAMPLES)}"] if more else []
        raise RecipeError(
            f"{where} has other classes than the data: {'; '.join(differences)}",
            hint="give a run on the same classes",
        )
    channels = run.info.preprocess.channels
    if channels != preprocess.channels:
        raise RecipeError(
            f"{where} takes images of {channels} channels, and this backbone of "
            f"{preprocess.channels}",
            hint="give a run with a backbone of as many channels",
        )
    return [index[name] for name in class_names]


def _check_same(recipe: Recipe, sha256: str, of_main: str) -> None:
    if sha256 != of_main:
        raise RunError(
            f"the processes of this run find different teachers at {recipe.teacher}",
            hint="give all of them the same files, or one folder that all of them see",
        )
