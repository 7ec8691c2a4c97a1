"""Whether pretrained features help, on each dataset of `sets.py`, as a run says before training.

    python bench/verdict.py --sets SETS

Prints a table for docs/transfer.md. Seconds are CPU time of one thread: what the verdict adds to a
run, that is features of the network with random weights and the cross-validation of both probes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from sets import SETS

from zoo import allocator, plugins
from zoo.events import ignore
from zoo.features.pretrained import features_of, load_pretrained
from zoo.features.transfer import images_for_transfer, measure_transfer, some_of_each
from zoo.planning.config import Resolver
from zoo.planning.decisions import decide_metric, decide_task
from zoo.planning.inputs import read_data
from zoo.recipe import change, make_recipe
from zoo.tasks import TASKS, metric_label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    allocator.tune()
    print("| set | metric | pretrained | random | baseline | images | p | helps | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for each in SETS:
        print(_row(each.name, args.sets / each.name, each.image_size), flush=True)


def _row(name: str, folder: Path, image_size: int) -> str:
    recipe = make_recipe(None, data=folder, image_size=image_size, device="cpu", cache_size=0.0)
    splits = read_data(recipe, ignore)
    resolver = Resolver(recipe, listen=ignore)
    decide_task(resolver, splits, ignore)
    decide_metric(resolver, splits.counts(splits.train), ignore)
    recipe, task = resolver.recipe, TASKS[resolver.recipe.task]
    classes = len(splits.class_names)
    targets = task.targets(splits.indices(splits.train), classes)
    most = images_for_transfer(len(targets), finetunes=True)
    some = some_of_each(task.strata(targets), most, recipe.seed)
    samples = [splits.train[n] for n in some]
    backbone = plugins.get(recipe.backbone)
    (pretrained,) = features_of(load_pretrained(backbone, recipe), samples)
    started = time.process_time()
    without = load_pretrained(backbone, change(recipe, weights="none"))
    (random,) = features_of(without, samples)
    found = measure_transfer(
        pretrained.features,
        random.features,
        targets[some],
        torch.arange(len(some)),
        num_classes=classes,
        task=task,
        metric=recipe.metric,
    )
    seconds = time.process_time() - started
    values = " | ".join(
        f"{100 * value:.1f}" for value in (found.pretrained, found.random, found.baseline)
    )
    return (
        f"| {name} | {metric_label(found.metric)} | {values} | {found.images} | {found.p:.2g} | "
        f"{'yes' if found.helps else 'no'} | {seconds:.1f} |"
    )


if __name__ == "__main__":
    main()
