"""The depth of timm's layers, as timm's own layer-wise learning rates group them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

#: What `group_matcher` gives: regular expressions in the order of depth, or a function.
Matcher = dict[str, Any] | Callable[[str], Any]

#: For the classes that have no `group_matcher`, as timm writes those of their likes: a stem, and
#: each block, with the downsampling before it. (99999,) is timm's "with the layer before".
MATCHERS: dict[str, Matcher] = {
    "MetaFormer": {
        "stem": r"^stem",
        "blocks": [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
        ],
    },
    "PoolingVisionTransformer": {
        "stem": r"^cls_token|pos_embed|patch_embed",
        "blocks": [
            (r"^transformers\.(\d+)\.pool", (0,)),
            (r"^transformers\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ],
    },
    # A stage is a plain sequence: from the second on a convolution that halves the size comes
    # first, and up to the last but one a norm comes last.
    "CSATv2": {
        "stem": r"^stem_dct",
        "blocks": [
            (r"^stages\.([1-9]\d*)\.0\.", (1,)),
            (r"^stages\.(\d+)\.\d+\.(?:weight|bias)$", (99999,)),
            (r"^stages\.(\d+)\.(\d+)", None),
        ],
    },
}


#: Learned positions that every block reads, which timm leaves for its last group: of the stem.
POSITIONS = ("rope.", "shared_rel_pos.")


def stages(head_paths: tuple[str, ...], model: nn.Module) -> list[tuple[str, ...]]:
    """Paths of each depth, from the stem to the neck.

    Depths are those of timm's `param_groups_layer_decay`, less the head: what timm leaves together
    with the head in its last group (a pooled norm, hidden layers) is the neck, a depth of its own,
    and learned positions, which it leaves there too, are of the stem.

    Args:
        head_paths: Where the head is.
        model: As built by timm.

    Returns:
        For each depth the shortest paths that hold its tensors and no others.
    """
    depth_of = _depths(head_paths, model)
    found: dict[str, set[float]] = defaultdict(set)
    for name, depth in depth_of.items():
        for path in _paths(name):
            found[path].add(depth)
    by_depth: dict[float, dict[str, None]] = defaultdict(dict)
    for name, depth in depth_of.items():
        if depth != _HEAD:
            by_depth[depth][next(p for p in _paths(name) if len(found[p]) == 1)] = None
    return [tuple(by_depth[depth]) for depth in sorted(by_depth)]


_HEAD = -1.0


def _depths(head_paths: tuple[str, ...], model: nn.Module) -> dict[str, float]:
    """Depth of each parameter and buffer, in registration order; a tied one under all its names."""
    from timm.models import group_parameters

    matcher = MATCHERS.get(type(model).__name__)
    if matcher is None:
        if not hasattr(model, "group_matcher"):
            return {}
        matcher = model.group_matcher(coarse=False)  # type: ignore[operator]
    groups = group_parameters(model, matcher, reverse=True)
    parameters = dict(model.named_parameters())
    of_tensor = {
        id(parameters[name]): 0.0 if name.startswith(POSITIONS) else float(depth)
        for name, depth in groups.items()
    }
    depth_of: dict[str, float] = {}
    # A buffer that no parameter stands beside (pooling filters, rotary positions) has the depth
    # of what comes before it.
    before = 0.0
    for path, module in model.named_modules(remove_duplicate=False):
        dot = f"{path}." if path else ""
        for name, parameter in module.named_parameters(recurse=False):
            is_head = any(f"{dot}{name}".startswith(f"{head}.") for head in head_paths)
            depth_of[dot + name] = _HEAD if is_head else of_tensor[id(parameter)]
            before = before if is_head else depth_of[dot + name]
        for name, _ in module.named_buffers(recurse=False):
            depth_of[dot + name] = before
    return depth_of


def _paths(name: str) -> Iterator[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`."""
    return accumulate(name.split("."), lambda path, part: f"{path}.{part}")
