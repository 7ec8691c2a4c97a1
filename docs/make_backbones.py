"""Run the conformance kit on every backbone of zoo's own plugins and write docs/backbones.md.

    python docs/make_backbones.py            all, on all cores: some ten minutes on two
    python docs/make_backbones.py 'timm/vit*'  print the rows of some, write nothing

Each network is built on torch's meta device for the checks that need no values. That every tensor
but the head's is the loaded one, bit by bit, is checked on real tensors, for large networks in
bfloat16, with the libraries' initialisation left out.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from unittest import mock

import torch

from zoo import plugins
from zoo.errors import ZooError
from zoo.models.depth import depths
from zoo.models.head import head_leaves
from zoo.testing.checks import CHECKS
from zoo.testing.run import CheckResult, run_checks
from zoo.testing.subject import CheckFailed, Subject, no_initialisation
from zoo.testing.values import check_other_weights_stay_bit_identical

PAGE = Path(__file__).with_name("backbones.md")

PLUGINS = ("torchvision", "timm", "zoo")

#: Beyond this many parameters a network is checked in bfloat16 and not beside others: in float32
#: two of the largest would not fit into 24 GB.
LARGE = 700_000_000

HEADING = """# Backbones

Written by `python docs/make_backbones.py`; do not edit. Made with {versions}.

{count} backbones. Each of them passes the checks of the
[conformance kit](plugins.md#the-conformance-kit) that need no values, and with a new head has every
other tensor equal to the loaded one, bit by bit. The checks:
{checks}.

*Parameters* are those of the network with its original head, in millions; *input* is the side of
the images in pixels, *fixed* where it takes no other; *depths* are the steps of `--layer-decay` and
`--freeze N`; the licence is that of the pretrained weights, as the library states it.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the sweep found of one backbone."""

    name: str
    parameters: int
    input_size: str
    head: str
    head_type: str
    depths: int
    licence: str
    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> list[str]:
        """Failed checks, in words."""
        return [
            f"{self.name}: {r.check}: {r.message}" for r in self.results if r.status == "failed"
        ]

    def markdown(self) -> str:
        """The row of the page."""
        cells = (
            f"`{self.name.partition('/')[2]}`",
            f"{self.parameters / 1e6:.1f}",
            self.input_size,
            self.head,
            self.head_type,
            str(self.depths),
            self.licence,
        )
        return f"| {' | '.join(cells)} |"


def sweep(pattern: str = "*") -> list[Row]:
    """The rows of all backbones of zoo's own plugins that match, sorted by name."""
    names = [b.name for b in plugins.backbones(pattern) if b.name.partition("/")[0] in PLUGINS]
    with _pool(os.cpu_count() or 1) as pool:
        rows = list(pool.map(row, names, chunksize=4))
    large = [r.name for r in rows if r.parameters > LARGE]
    with _pool(1) as pool:
        late = dict(zip(large, pool.map(weights_stay, large), strict=True))
    return [_with(r, late[r.name]) if r.name in late else r for r in rows]


def row(name: str) -> Row:
    """Check one backbone; the weights of a large one are left for later."""
    backbone = plugins.get(name)
    subject = Subject(backbone, torch.device("meta"))
    results = tuple(run_checks(subject, {}))
    parameters = sum(p.numel() for p in subject.original.parameters())
    if parameters <= LARGE:
        results = (*results, weights_stay(name, torch.float32))
    height, width = backbone.preprocess.height_width
    kinds = Counter(type(leaf).__name__ for leaf in head_leaves(subject.model, backbone).values())
    fixed = " fixed" if backbone.preprocess.fixed_size and backbone.resized is None else ""
    return Row(
        name=name,
        parameters=parameters,
        input_size=(str(height) if height == width else f"{height}x{width}") + fixed,
        head=", ".join(backbone.head_paths),
        head_type=", ".join(f"{n} {k}" if n > 1 else k for k, n in kinds.items()),
        depths=len(depths(subject.model, backbone)),
        licence=(backbone.weights.license or "not stated") if backbone.weights else "no weights",
        results=results,
    )


def weights_stay(name: str, dtype: torch.dtype = torch.bfloat16) -> CheckResult:
    """Check on real tensors that nothing but the head differs from what was loaded."""
    from timm.layers import weight_init

    backbone = plugins.get(name)
    subject = Subject(backbone, torch.device("cpu"))
    check = check_other_weights_stay_bit_identical
    # timm draws truncated normal numbers by a function of its own.
    no_draws = mock.patch.object(weight_init, "_trunc_normal_", lambda tensor, *_, **__: tensor)
    with no_initialisation(), no_draws:
        # Of the original only names and shapes are looked at.
        subject.original = Subject(backbone, torch.device("meta")).original
        torch.set_default_dtype(dtype)
        try:
            check(subject)
        except (CheckFailed, ZooError) as failure:
            return CheckResult(
                backbone=name, check=check.__name__, status="failed", message=str(failure)
            )
        finally:
            torch.set_default_dtype(torch.float32)
    return CheckResult(backbone=name, check=check.__name__, status="passed")


def page(rows: list[Row]) -> str:
    """The page's text."""
    made = [c for c in CHECKS if not c.needs_values]
    parts = [
        HEADING.format(
            versions=versions(),
            count=f"{len(rows):,}",
            checks=textwrap.fill(", ".join(c.name for c in made), 100),
        )
    ]
    for plugin in PLUGINS:
        own = [r for r in rows if r.name.startswith(f"{plugin}/")]
        parts.append(f"## {plugin}: {len(own):,}\n")
        parts.append(
            "| backbone | parameters (M) | input | head | type | depths | weights licence |\n"
            "|---|---|---|---|---|---|---|\n" + "\n".join(r.markdown() for r in own) + "\n"
        )
        left_out = plugins.load(plugin).left_out.values()
        if left_out:
            parts.append("Left out:\n")
            parts.append("".join(f"- `{x.name}`: {x.reason}\n" for x in left_out))
    return "\n".join(parts)


def versions() -> str:
    """The libraries whose models are listed, as the page states them."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("torchvision", "timm"))


def _with(found: Row, result: CheckResult) -> Row:
    return Row(**{**vars(found), "results": (*found.results, result)})


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    )


def main() -> None:
    """Sweep; write the page, or print what was asked for."""
    found = sweep(*sys.argv[1:])
    failures = [line for r in found for line in r.failures]
    print("\n".join(failures or [f"{len(found)} backbones, no failures"]), file=sys.stderr)
    if sys.argv[1:]:
        print("\n".join(r.markdown() for r in found))
    elif not failures:
        PAGE.write_text(page(found), encoding="utf-8")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
