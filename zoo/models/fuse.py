"""Fold batch norms into the preceding convolutions, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

Forward = Callable[[nn.Module, Tensor], Tensor]

#: Largest difference between outputs that is attributed to rounding, relative to the largest one.
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Fused:
    """A network for inference only.

    Attributes:
        model: Has the same outputs as the original network, and is that network if nothing is
            folded.
        batch_norms: Number of folded batch norms.
    """

    model: nn.Module
    batch_norms: int


@torch.no_grad()
def fuse_batch_norms(model: nn.Module, example: Tensor, forward: Forward | None = None) -> Fused:
    """Copy a network and fold its batch norms into the preceding convolutions.

    In eval mode, a batch norm scales and shifts each channel by constants, which can be merged into
    the weights of the preceding convolution (`torch.nn.utils.fusion`). Nothing is traced: one
    forward pass shows which batch norms read the output of a convolution that nothing else reads.
    Operations that the layer applies after normalising (dropout and activation in timm's
    `BatchNormAct2d`) are retained.

    If the outputs on the example differ by more than 1e-4 of the largest output, nothing is folded.

    Args:
        model: In eval mode, float32. It is not changed. The copy shares all tensors except the
            folded ones, so fold again after those have been trained.
        example: (N, C, H, W) on the model's device, N at least 2; noise, not constants.
        forward: How the copy will be called, by default as a whole. If it computes only a part of
            the network (`lambda model, images: model.layer1(...)`), only that part is folded.
    """
    forward = forward or nn.Module.__call__
    expected, pairs = _observe(model, example, forward)
    if not pairs:
        return Fused(model=model, batch_norms=0)
    folded = _fold(model, pairs)
    if not _same(expected, forward(folded, example)):
        return Fused(model=model, batch_norms=0)
    return Fused(model=folded, batch_norms=len(pairs))


@dataclass
class _ConvOutput:
    conv: nn.Conv2d
    batch_norm: nn.BatchNorm2d | None = None
    uses: int = 0


class _CountUses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that read each tensor of `outputs`."""

    def __init__(self, outputs: WeakTensorKeyDictionary) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.outputs = outputs

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf in self.outputs:
                self.outputs[leaf].uses += 1
        return func(*args, **kwargs)


def _observe(
    model: nn.Module, example: Tensor, forward: Forward
) -> tuple[Tensor, dict[nn.Conv2d, nn.BatchNorm2d]]:
    """Return the output, and the batch norm of each convolution that only a batch norm reads."""
    outputs = WeakTensorKeyDictionary()
    found: list[_ConvOutput] = []
    calls: Counter[nn.Module] = Counter()

    def after_conv(conv: nn.Module, args: Any, output: Any) -> None:
        calls[conv] += 1
        if isinstance(conv, nn.Conv2d) and isinstance(output, Tensor):
            outputs[output] = made = _ConvOutput(conv)
            found.append(made)

    def before_batch_norm(batch_norm: nn.Module, args: tuple[Any, ...]) -> None:
        calls[batch_norm] += 1
        if isinstance(batch_norm, nn.BatchNorm2d) and args and args[0] in outputs:
            outputs[args[0]].batch_norm = batch_norm

    handles = []
    try:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and _plain(module):
                handles.append(module.register_forward_hook(after_conv))
            elif isinstance(module, nn.BatchNorm2d) and _plain(module):
                handles.append(module.register_forward_pre_hook(before_batch_norm))
        with _CountUses(outputs):
            output = forward(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return output, {
        made.conv: made.batch_norm
        for made in found
        if made.batch_norm is not None
        and made.uses == calls[made.conv] == calls[made.batch_norm] == 1
    }


def _plain(module: nn.Conv2d | nn.BatchNorm2d) -> bool:
    """Return whether a module computes with its own constants and has no hooks."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, nn.BatchNorm2d):
        return module.running_mean is not None
    return not is_parametrized(module)


def _fold(model: nn.Module, pairs: dict[nn.Conv2d, nn.BatchNorm2d]) -> nn.Module:
    """Copy the model with the pairs folded; all other tensors are shared."""
    # deepcopy does not copy objects that are in its memo, and adds those that it copies.
    memo: dict[int, Any] = {id(t): t for t in chain(model.parameters(), model.buffers())}
    folded = copy.deepcopy(model, memo)
    new: dict[nn.Module, nn.Module] = {}
    for conv, batch_norm in pairs.items():
        new[memo[id(conv)]] = fuse_conv_bn_eval(conv, batch_norm)
        after = memo[id(batch_norm)].children()
        new[memo[id(batch_norm)]] = nn.Sequential(*after)
    for parent in list(folded.modules()):
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]
    return folded.eval()


def _same(expected: Tensor, given: Tensor) -> bool:
    largest = expected.abs().max()
    return bool(largest > 0) and bool((given - expected).abs().max() <= _TOLERANCE * largest)
