"""Run the conformance kit on every backbone of zoo's own plugins.

    python -m tests.backbones.sweep backbones.csv             all: an hour on two cores
    python -m tests.backbones.sweep vit.csv 'timm/vit*'       some

Each network is built on torch's meta device for the checks that need no values. That every tensor
but the head's is the loaded one, bit by bit, is checked on real tensors, for large networks in
bfloat16, with the libraries' initialisation left out.

The slow tests leave out `BY_CLASS`, checks of code that timm's networks of one class share, except
for one network per class; of the others, each is built and computes one forward pass.
"""

from __future__ import annotations

import concurrent.futures
import csv
import itertools
import multiprocessing
import os
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch

from zoo import plugins
from zoo.errors import ZooError
from zoo.models.depth import depths
from zoo.models.head import head_leaves
from zoo.testing.built import (
    check_auxiliary_logits_are_in_order,
    check_every_parameter_is_used,
    check_head_gets_the_classes,
    check_options_are_taken,
    check_other_sizes,
    check_stages_are_in_order,
)
from zoo.testing.checks import CHECKS
from zoo.testing.run import CheckResult, run_checks
from zoo.testing.subject import (
    OTHER_CLASSES,
    CheckFailed,
    Subject,
    logits_in,
    no_initialisation,
)
from zoo.testing.values import check_other_weights_stay_bit_identical

PLUGINS = ("torchvision", "timm", "transformers", "zoo")

#: The smallest of timm's networks of each class, and the class.
ONE_PER_CLASS = dict(
    line.split()
    for line in Path(__file__).with_name("one_per_class.txt").read_text().splitlines()
    if not line.startswith("#")
)

#: Checks that take several forward passes each, and whose result is of the class of a network.
BY_CLASS = (
    check_auxiliary_logits_are_in_order,
    check_every_parameter_is_used,
    check_head_gets_the_classes,
    check_options_are_taken,
    check_other_sizes,
    check_other_weights_stay_bit_identical,
    check_stages_are_in_order,
)

#: Beyond this many parameters a network is checked in bfloat16 and not beside others: in float32
#: two of the largest would not fit into 24 GB.
LARGE = 700_000_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """The results of one backbone.

    Attributes:
        name: Full name.
        parameters: Of the network with its original head.
        head_type: Classes of the head's leaves, with their number if there are several.
        depths: Number of depths, the steps of `--layer-decay` and `--freeze N`.
        results: Of each check.
    """

    name: str
    parameters: int
    head_type: str
    depths: int
    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> list[str]:
        """Failed checks with their messages."""
        return [
            f"{self.name}: {r.check}: {r.message}" for r in self.results if r.status == "failed"
        ]


def sweep(pattern: str = "*", *, by_class: bool = False) -> list[Row]:
    """The rows of all backbones of zoo's own plugins that match, sorted by name.

    Args:
        pattern: Of the names.
        by_class: Make the checks in `BY_CLASS` only of one of timm's networks per class.
    """
    names = [b.name for b in plugins.backbones(pattern) if b.name.partition("/")[0] in PLUGINS]
    with _pool(os.cpu_count() or 1) as pool:
        rows = list(pool.map(row, names, itertools.repeat(by_class), chunksize=4))
    large = [r.name for r in rows if r.parameters > LARGE and not (by_class and _is_alike(r.name))]
    with _pool(1) as pool:
        late = dict(zip(large, pool.map(weights_stay, large), strict=True))
    return [replace(r, results=(*r.results, late[r.name])) if r.name in late else r for r in rows]


def row(name: str, by_class: bool = False) -> Row:
    """Check one backbone; the weights of a large one are left for later."""
    backbone = plugins.get(name)
    subject = Subject(backbone, torch.device("meta"))
    left_out = BY_CLASS if by_class and _is_alike(name) else ()
    checks = [c for c in CHECKS if not (c.function in left_out or (left_out and c.needs_values))]
    results = tuple(run_checks(subject, checks))
    parameters = sum(p.numel() for p in subject.original.parameters())
    if left_out:
        results = (*results, takes_its_images(subject))
    elif parameters <= LARGE:
        results = (*results, weights_stay(name, torch.float32))
    kinds = Counter(type(leaf).__name__ for leaf in head_leaves(subject.model, backbone).values())
    return Row(
        name=name,
        parameters=parameters,
        head_type=", ".join(f"{n} {k}" if n > 1 else k for k, n in kinds.items()),
        depths=len(depths(subject.model, backbone)),
        results=results,
    )


def takes_its_images(subject: Subject) -> CheckResult:
    """Check by one forward pass that the network takes images of the declared size."""
    try:
        with torch.no_grad():
            logits_in(subject, subject.other.eval(), subject.images(), OTHER_CLASSES)
    except CheckFailed as failure:
        return CheckResult(
            name=subject.name, check="takes_its_images", status="failed", message=str(failure)
        )
    return CheckResult(name=subject.name, check="takes_its_images", status="passed")


def _is_alike(name: str) -> bool:
    """Whether another of timm's networks stands for the class of this one."""
    return name.startswith("timm/") and name.removeprefix("timm/") not in ONE_PER_CLASS


def weights_stay(name: str, dtype: torch.dtype = torch.bfloat16) -> CheckResult:
    """Check on real tensors that nothing but the head differs from what was loaded."""
    from timm.layers import weight_init

    backbone = plugins.get(name)
    subject = Subject(backbone, torch.device("cpu"))
    check = check_other_weights_stay_bit_identical
    # timm draws truncated normal numbers by a function of its own.
    no_draws = mock.patch.object(weight_init, "_trunc_normal_", lambda tensor, *_, **__: tensor)
    with no_initialisation(), no_draws:
        # Only names and shapes of the original are used.
        subject.original = Subject(backbone, torch.device("meta")).original
        torch.set_default_dtype(dtype)
        try:
            check(subject)
        except (CheckFailed, ZooError) as failure:
            return CheckResult(
                name=name, check=check.__name__, status="failed", message=str(failure)
            )
        finally:
            torch.set_default_dtype(torch.float32)
    return CheckResult(name=name, check=check.__name__, status="passed")


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    )


def main() -> None:
    """Sweep, write the figures, and exit with 1 if a check failed."""
    file, *pattern = sys.argv[1:]
    rows = sweep(*pattern)
    with Path(file).open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(("backbone", "parameters", "head_type", "depths", "failures"))
        for r in rows:
            writer.writerow((r.name, r.parameters, r.head_type, r.depths, "; ".join(r.failures)))
    failures = [line for r in rows for line in r.failures]
    print("\n".join(failures or [f"{len(rows)} backbones, no failures"]))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
