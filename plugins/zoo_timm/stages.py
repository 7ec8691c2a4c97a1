"""Depths of timm's layers, as in timm's own layer-wise learning-rate decay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

#: Return type of `group_matcher`: regular expressions in the order of depth, or a function.
Matcher = dict[str, Any] | Callable[[str], Any]

#: Matchers for classes without `group_matcher`, like timm's for similar networks: a stem, and each
#: block with the downsampling before it. (99999,) means "with the preceding layer" in timm.
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
    # A stage is a sequence. All but the first begin with a convolution that halves the size, and
    # all but the last end with a norm.
    "CSATv2": {
        "stem": r"^stem_dct",
        "blocks": [
            (r"^stages\.([1-9]\d*)\.0\.", (1,)),
            (r"^stages\.(\d+)\.\d+\.(?:weight|bias)$", (99999,)),
            (r"^stages\.(\d+)\.(\d+)", None),
        ],
    },
}


#: Position embeddings that every block reads: in timm's last group, here part of the stem.
POSITIONS = ("rope.", "shared_rel_pos.")


def stages(head_paths: tuple[str, ...], model: nn.Module) -> list[tuple[str, ...]]:
    """Return the paths of each depth, from the stem to the neck.

    Depths are those of timm's `param_groups_layer_decay`, without the head. Other layers in timm's
    last group (a pooled norm, hidden layers) are the neck, a separate depth; learned position
    embeddings, which are also in that group, belong to the stem.

    Returns:
        For each depth the shortest paths that contain only its tensors.
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
    """Return the depth of each parameter and buffer, in registration order, under all names."""
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
    # A buffer in a module without parameters (pooling filters, rotary position embeddings) has the
    # depth of the preceding module.
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
    """Yield all prefixes of a path: `a.b.c` -> `a`, `a.b`, `a.b.c`."""
    return accumulate(name.split("."), lambda path, part: f"{path}.{part}")
