"""Choice of the backbone, if the recipe leaves it to zoo."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from accelerate import Accelerator

from zoo import plugins
from zoo.data.sources.demo import IMAGE_SIZE
from zoo.errors import RecipeError, WeightsUnavailableError
from zoo.events import Listener, Note, ignore
from zoo.machine.processes import decide_on_main, local_main_first
from zoo.planning.candidates import (
    Candidate,
    LabelledImages,
    describe_failures,
    here,
    images_to_compare,
    measure_candidates,
    ranked,
    recommendation,
)
from zoo.planning.config import Resolver
from zoo.planning.decisions import decide_metric, decide_task
from zoo.planning.inputs import read_data
from zoo.planning.same_data import check_same_data
from zoo.recipe import Recipe, change
from zoo.recipe.fields import seconds_of

#: Value of `Recipe.backbone` that leaves the choice to zoo.
AUTO = "auto"

#: Maximum number of train images that backbones are compared on.
_MOST = 500

#: Share of the recipe's `time` that the comparison may take.
_SHARE = 0.25


def choose_backbone(
    resolver: Resolver, accelerator: Accelerator, started: float, listen: Listener
) -> None:
    """Replace the backbone `auto` by the best of those whose weights are on this machine.

    They are compared by cross-validated probes on train images, smaller networks first. With
    `time`, those that would exceed a quarter of it are left out, with a `Note`. Several processes
    divide the images; all that depends on time is decided by the main one.

    Raises:
        RecipeError: The recipe names other weights than pretrained ones.
        WeightsUnavailableError: No backbone's weights are on this machine, or none can be used.
        DataError: As in `read_data`.
    """
    # Converting each of the networks would take longer than computing features of few images.
    recipe = change(resolver.recipe, engine="torch", unlabelled=None)
    if recipe.weights != "pretrained":
        raise RecipeError(
            f"`backbone=auto` compares pretrained backbones, but weights = {recipe.weights!r}",
            hint="name a backbone, or leave `weights` out",
        )
    names = decide_on_main(accelerator, here)
    if not names:
        raise WeightsUnavailableError(
            "`backbone=auto`: the weights of no backbone are on this machine",
            hint="get some with `zoo weights fetch`, or name a backbone",
        )
    images = _images(recipe, accelerator)
    listen(
        Note(
            text=f"backbone auto: comparing {len(names)} backbones whose weights are on this "
            f"machine on {len(images.samples)} train images: {', '.join(names)}"
        )
    )
    if recipe.data is None and recipe.image_size is None:
        recipe = change(recipe, image_size=IMAGE_SIZE)
    measured = _within_time(names, images, recipe, accelerator, started, listen)
    found = ranked(measured, images)
    describe_failures(found, listen)
    best = found[0]
    if best.reason is not None:
        raise WeightsUnavailableError(
            "`backbone=auto`: none of the backbones on this machine can be used",
            hint="name a backbone",
        )
    listen(Note(text=f"backbone = {best.name}: {recommendation(found)}"))
    figures = ", ".join(f"{each.name} {each.score:.1%}" for each in found if each.reason is None)
    why = f"best in cross-validation on {len(images.samples)} train images: {figures}"
    resolver.replace(why, backbone=best.name)


def _images(recipe: Recipe, accelerator: Accelerator) -> LabelledImages:
    """Return the train images to compare backbones on; what their data is like is noted later."""
    splits = local_main_first(partial(read_data, recipe, ignore, with_test=False))
    check_same_data(accelerator, splits)
    decided = Resolver(recipe, listen=ignore)
    decide_task(decided, splits, ignore)
    decide_metric(decided, splits.counts(splits.train), ignore)
    return images_to_compare(decided.recipe, splits, splits.train, _MOST)


def _within_time(
    names: Sequence[str],
    images: LabelledImages,
    recipe: Recipe,
    accelerator: Accelerator,
    started: float,
    listen: Listener,
) -> list[Candidate]:
    """Measure the backbones that fit into the time for the comparison; say which do not."""
    entries = {entry.name: entry.macs for entry in plugins.index().backbones}
    macs = {name: entries.get(name) for name in names}
    # Those that do not state it are last.
    order = sorted(names, key=lambda name: (macs[name] is None, macs[name] or 0, name))
    end = None if recipe.time is None else started + _SHARE * seconds_of(recipe.time)
    found: list[Candidate] = []
    slowest = 0.0
    for name in order:
        begun = time.perf_counter()
        cost = macs[name]
        # At least one is measured; its seconds for each multiply-accumulate predict the others'.
        expected = slowest * cost if cost else begun - started
        late = end is not None and bool(found) and begun + expected > end
        if decide_on_main(accelerator, partial(bool, late)):
            listen(
                Note(
                    text=f"{name} is not compared: with about {expected:.0f} s it would exceed "
                    f"{_SHARE:.0%} of `time={recipe.time}`",
                )
            )
            continue
        found += measure_candidates([name], images, recipe, accelerator=accelerator, listen=listen)
        if cost and found[-1].reason is None:
            slowest = max(slowest, (time.perf_counter() - begun) / cost)
    return found
