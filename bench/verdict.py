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
from zoo.features.transfer import choose_images, measure_transfer
from zoo.planning.config import Resolver
from zoo.planning.decisions import decide_metric, decide_task
from zoo.planning.inputs import read_data
from zoo.recipe import change, make_recipe
from zoo.tasks import TASKS, metric_label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=Path, required=True)
    parser.add_argument("--only", choices=[each.name for each in SETS])
    args = parser.parse_args()
    torch.set_num_threads(1)
    allocator.tune()
    print("| set | metric | pretrained | random | baseline | images | p | helps | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for each in [each for each in SETS if args.only in (None, each.name)]:
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
    chosen = choose_images(targets, classes, task, finetunes=True, seed=recipe.seed)
    samples = [splits.train[n] for n in chosen.positions]
    backbone = plugins.get(recipe.backbone)
    (pretrained,) = features_of(load_pretrained(backbone, recipe), samples)
    started = time.process_time()
    without = load_pretrained(backbone, change(recipe, weights="none"))
    (random,) = features_of(without, samples)
    found = measure_transfer(
        pretrained.features,
        random.features,
        chosen,
        torch.arange(len(samples)),
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
