"""The order of computation of transformers' models, from the names of their classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

#: Ends of names of classes whose children are computed in the order of their registration.
PARTS = ("Model", "Encoder")

#: The same, for elements of a list.
STAGES = ("Stage", "MobileNetLayer", "PPLCNetBlock", "PvtV2EncoderLayer")


def stages(head_paths: tuple[str, ...], model: nn.Module) -> list[tuple[str, ...]]:
    """Return the paths of each depth: embeddings, each layer of the lists in order, final norms.

    What lies between the lists of a part is a depth; what lies between those of two stages
    (downsampling, patch embeddings) goes with the layer after it.
    """
    return _Walk(head_paths).over(model)


class _Walk:
    def __init__(self, head_paths: tuple[str, ...]) -> None:
        self._heads = head_paths
        self._found: list[tuple[str, ...]] = []
        self._pending: list[str] = []

    def over(self, model: nn.Module) -> list[tuple[str, ...]]:
        self._part("", model)
        return self._found

    def _part(self, path: str, module: nn.Module) -> None:
        self._own_tensors(path, module)
        lists = list(_lists(module).values())
        if len(lists) > 1 and len({len(each) for each in lists}) == 1 and len(lists[0]) > 1:
            self._in_turn(path, module)
        else:
            self._children(path, module, between=self._flush)
        self._flush()

    def _children(self, path: str, module: nn.Module, between: Callable[[], None]) -> None:
        for name, child in module.named_children():
            own = f"{path}.{name}" if path else name
            if own in self._heads or not _holds_tensors(child):
                continue
            if _is_list(child) and not name.startswith("downsampl"):
                between()
                self._elements(own, child)
            elif type(child).__name__.endswith(PARTS) or self._holds_head(own):
                between()
                self._part(own, child)
            else:
                self._pending.append(own)

    def _elements(self, path: str, elements: nn.Module) -> None:
        for name, element in elements.named_children():
            self._element(f"{path}.{name}", element)

    def _element(self, path: str, element: nn.Module) -> None:
        kind = type(element).__name__
        if path in self._heads or not _holds_tensors(element):
            return
        if kind.endswith(STAGES):
            self._own_tensors(path, element)
            self._children(path, element, between=lambda: None)
        elif _is_list(element):
            self._elements(path, element)
        elif kind.endswith("Embeddings"):
            self._pending.append(path)
        else:
            self._found.append((*self._pending, path))
            self._pending = []

    def _in_turn(self, path: str, module: nn.Module) -> None:
        """Take the first element of each list, then the second of each: PVT, PoolFormer."""
        lists = _lists(module)
        for number in range(len(next(iter(lists.values())))):
            for name, elements in lists.items():
                self._element(f"{path}.{name}.{number}", elements[number])
        self._flush()
        for name, child in module.named_children():
            if name not in lists and _holds_tensors(child):
                self._pending.append(f"{path}.{name}")

    def _own_tensors(self, path: str, module: nn.Module) -> None:
        for name, _ in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ):
            self._pending.append(f"{path}.{name}" if path else name)

    def _flush(self) -> None:
        if self._pending:
            self._found.append(tuple(self._pending))
            self._pending = []

    def _holds_head(self, path: str) -> bool:
        return any(head.startswith(f"{path}.") for head in self._heads)


def _lists(module: nn.Module) -> dict[str, nn.ModuleList]:
    from torch import nn

    return {n: child for n, child in module.named_children() if isinstance(child, nn.ModuleList)}


def _is_list(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.ModuleList | nn.Sequential)


def _holds_tensors(module: nn.Module) -> bool:
    return any(True for _ in (*module.parameters(), *module.buffers()))
