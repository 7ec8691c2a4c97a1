"""Depth of each parameter and buffer of a backbone, from the stages that its plugin declares."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from zoo.backbone import Backbone, Stage
from zoo.errors import PluginError
from zoo.io.text import listed
from zoo.models.head import in_head
from zoo.plugins import blame, describe


@dataclass(frozen=True, kw_only=True)
class Depths:
    """The depths of a model; the stem has depth 0.

    Attributes:
        stages: Paths of each depth; the neck, if there is one, is the last.
        of: Depth of every parameter and buffer (persistent or not) outside the head, by name.
        uncovered: Names that no stage covers; they count as depth 0.
        declared: Whether the backbone declares stages; if not, all of it has depth 0.
    """

    stages: tuple[tuple[str, ...], ...]
    of: dict[str, int]
    uncovered: tuple[str, ...] = ()
    declared: bool = True

    def __len__(self) -> int:
        return len(self.stages)

    def label(self, depth: int) -> str:
        """Return a display name of a depth: its first path."""
        return self.stages[depth][0]

    def span(self, first: int, last: int) -> str:
        """Return a display name of the depths from `first` to `last`."""
        if (first, last) == (0, len(self) - 1):
            return "backbone"
        start, end = self.label(first), self.label(last)
        return start if first == last else f"{start} .. {end}"


def depths(model: nn.Module, backbone: Backbone) -> Depths:
    """Return the depth of every parameter and buffer outside the head.

    The most specific path that covers a name determines its depth.

    Raises:
        PluginError: If a declared path does not exist in the model, or is declared at two depths.
    """
    names = [
        name
        for name, _ in (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        )
        if not in_head(name, backbone.head_paths)
    ]
    existing = _existing(model)
    _check(backbone.neck, "neck", existing, backbone)
    _check(backbone.unused, "an unused part", existing, backbone)
    with blame(backbone, "could not say its stages"):
        declared = tuple(backbone.stages(model) if callable(backbone.stages) else backbone.stages)
    stages = list(_expand(model, backbone, declared, existing))
    if not stages:
        return Depths(stages=(("all",),), of=dict.fromkeys(names, 0), declared=False)
    if backbone.neck:
        stages.append(backbone.neck)
    by_path: dict[str, int] = {}
    for depth, paths in enumerate(stages):
        for path in paths:
            if path in by_path:
                raise PluginError(f"{describe(backbone)} declares stage {path!r} twice")
            by_path[path] = depth
    found = {name: _depth(name, by_path) for name in names}
    return Depths(
        stages=tuple(stages),
        of={name: depth or 0 for name, depth in found.items()},
        uncovered=tuple(name for name, depth in found.items() if depth is None),
    )


def require_stages(model: nn.Module, depths: Depths, backbone: Backbone, what: str) -> None:
    """Check that the depth of every parameter is known, which the setting `what` requires.

    Raises:
        PluginError: If the backbone declares no stages, or they don't cover every parameter.
    """
    if not depths.declared:
        raise PluginError(
            f"{what} needs the depth of each layer, and backbone {backbone.name} declares "
            f"no stages; its plugin must declare zoo.Backbone(stages=...), stem to deepest block"
        )
    parameters = {name for name, _ in model.named_parameters()}
    uncovered = [name for name in depths.uncovered if name in parameters]
    if uncovered:
        raise PluginError(
            f"{what} needs the depth of each layer, and the stages of backbone "
            f"{backbone.name} leave out {listed(uncovered, 5)}; "
            f"its plugin must declare their paths in zoo.Backbone(stages=...)"
        )


def _depth(name: str, by_path: dict[str, int]) -> int | None:
    path = name
    while path not in by_path:
        path, dot, _ = path.rpartition(".")
        if not dot:
            return None
    return by_path[path]


def _expand(
    model: nn.Module, backbone: Backbone, declared: Iterable[Stage], existing: set[str]
) -> Iterable[tuple[str, ...]]:
    """Expand each `.*` in the stages, and check that every path exists."""
    seen: set[str] = set()
    for stage in declared:
        if isinstance(stage, str) and stage.endswith(".*"):
            parent = stage.removesuffix(".*")
            _check((parent,), "stage", existing, backbone)
            children = model.get_submodule(parent).named_children()
            # An activation or pooling layer is not a depth: it has nothing to train or freeze.
            paths = [
                f"{parent}.{name}"
                for name, child in children
                if f"{parent}.{name}" not in seen and _holds_tensors(child)
            ]
            yield from ((path,) for path in paths)
        else:
            paths = [stage] if isinstance(stage, str) else list(stage)
            _check(paths, "stage", existing, backbone)
            yield tuple(paths)
        seen.update(paths)


def _holds_tensors(module: nn.Module) -> bool:
    return any(True for _ in (*module.parameters(), *module.buffers()))


def _existing(model: nn.Module) -> set[str]:
    """Return every path that a stage may name."""
    return {
        name
        for name, _ in (
            *model.named_modules(remove_duplicate=False),
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        )
        if name
    }


def _check(paths: Iterable[str], what: str, existing: set[str], backbone: Backbone) -> None:
    for path in paths:
        if path not in existing:
            near = difflib.get_close_matches(path, existing, n=1)
            raise PluginError(
                f"{describe(backbone)} declares {what} {path!r}, which its model does not have",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )
