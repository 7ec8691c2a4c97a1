"""Adapters (LoRA): small layers that train beside the frozen layers of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo import plugins
from zoo.backbone import Backbone
from zoo.data.dataset import derive_seed
from zoo.errors import RecipeError
from zoo.models.depth import Depths
from zoo.models.head import in_head
from zoo.models.replay import keep_modes
from zoo.recipe import Recipe
from zoo.training.ema import copied, weights_of


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Adapters of a network, which are in it only while it trains.

    Attributes:
        model: The network.
        layers: By path, a layer of peft's around the network's own, which is its `base_layer`.
        frozen: All parameters outside the head, which don't train while the adapters do.
        depths: Depths of the network, by names with and without adapters.
    """

    model: nn.Module
    layers: Mapping[str, Any]
    frozen: tuple[nn.Parameter, ...]
    depths: Depths

    @property
    def attached(self) -> bool:
        """Whether they are in the network."""
        return any(self.model.get_submodule(path) is layer for path, layer in self.layers.items())

    def attach(self, attached: bool) -> None:
        """Put them into the network and freeze its own parameters, or undo that."""
        for path, layer in self.layers.items():
            parent, _, name = path.rpartition(".")
            setattr(self.model.get_submodule(parent), name, layer if attached else layer.base_layer)
        for parameter in self.frozen:
            parameter.requires_grad_(not attached)

    def origin(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state dict from which training starts, by names with and without adapters.

        Args:
            state: State dict of the network without adapters, whose tensors are shared.
        """
        origin = dict(state)
        for path, layer in self.layers.items():
            for name, tensor in layer.state_dict().items():
                shared = state.get(f"{path}.{name.removeprefix('base_layer.')}")
                origin[f"{path}.{name}"] = tensor.to("cpu", copy=True) if shared is None else shared
        return origin


def make_adapters(
    model: nn.Module,
    backbone: Backbone,
    recipe: Recipe,
    depths: Depths,
    *,
    frozen: int,
    image_size: tuple[int, int],
) -> Adapters | None:
    """Create adapters of low rank (LoRA: Hu et al., 2022) for linear layers and convolutions.

    These are the layers of the backbone that its forward pass calls, except for those of the neck
    and those whose weights peft can't merge. The initial values depend on the recipe's seed alone.

    Args:
        model: The network on its device.
        backbone: Declares where head and neck are.
        recipe: The resolved recipe; `lora_rank` None turns adapters off.
        depths: Depths of the network.
        frozen: Number of depths that are never trained, and get no adapters.
        image_size: (height, width) of the images.

    Returns:
        The adapters, not yet in the network; None if they are off.

    Raises:
        RecipeError: There is no layer to adapt.
        PluginError: The network fails with adapters.
    """
    if recipe.lora_rank is None:
        return None
    skipped = (*backbone.head_paths, *backbone.neck)
    own = {
        path: layer
        for path, layer in _mergeable(model).items()
        if not in_head(f"{path}.", skipped) and depths.of[f"{path}.weight"] >= frozen
    }
    outside = tuple(
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not in_head(name, backbone.head_paths)
    )
    adapters = Adapters(model=model, layers=_around(own, recipe), frozen=outside, depths=depths)
    called = _called(adapters, backbone, image_size)
    layers = {path: layer for path, layer in adapters.layers.items() if path in called}
    if not layers:
        raise RecipeError(
            f"lora_rank = {recipe.lora_rank}: {backbone.name} has no linear layer or convolution "
            f"to adapt{' outside its frozen part' if frozen else ''}",
            hint="leave out `lora_rank`" + (", or freeze less" if frozen else ""),
        )
    weight_of = {
        f"{path}.{name}": f"{path}.weight"
        for path, layer in layers.items()
        for name in layer.state_dict()
    }
    of = {**depths.of, **{name: depths.of[weight] for name, weight in weight_of.items()}}
    uncovered = [name for name, weight in weight_of.items() if weight in depths.uncovered]
    known = replace(depths, of=of, uncovered=(*depths.uncovered, *uncovered))
    return replace(adapters, layers=layers, depths=known)


@contextmanager
def attached(adapters: Adapters | None) -> Iterator[None]:
    """Put the adapters into the network within the context, if they are not in it already."""
    if adapters is None or adapters.attached:
        yield
        return
    adapters.attach(True)
    try:
        yield
    finally:
        adapters.attach(False)


@contextmanager
def merged(adapters: Adapters | None) -> Iterator[None]:
    """Replace adapted layers by the network's own within the context, with merged weights."""
    if adapters is None:
        yield
        return
    weights = [(layer, layer.base_layer.weight) for layer in adapters.layers.values()]
    # Subtracting what was added would not give the same bits.
    kept = [weight.detach().clone() for _, weight in weights]
    try:
        with torch.no_grad():
            for layer, weight in weights:
                weight += layer.get_delta_weight("default")
        adapters.attach(False)
        yield
    finally:
        adapters.attach(True)
        with torch.no_grad():
            for (_, weight), before in zip(weights, kept, strict=True):
                weight.copy_(before)


def merged_state(adapters: Adapters | None, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict of the network with adapters as one of the network without."""
    if adapters is None:
        return state
    with attached(adapters), weights_of(adapters.model, state), merged(adapters):
        return copied(adapters.model)


def _mergeable(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers, by path, whose weights peft can merge.

    A subclass may transform its weight. peft ignores dilation and padding mode.
    """
    names = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {
        path: layer
        for path, layer in model.named_modules()
        if type(layer) in (nn.Linear, nn.Conv2d)
        and getattr(layer, "groups", 1) == 1
        and getattr(layer, "dilation", (1, 1)) == (1, 1)
        and getattr(layer, "padding_mode", "zeros") == "zeros"
        and isinstance(layer.weight, nn.Parameter)
        and all(names[id(parameter)] == 1 for parameter in layer.parameters())
    }


def _around(layers: Mapping[str, nn.Module], recipe: Recipe) -> dict[str, nn.Module]:
    """Return peft's layers around these, by path."""
    from peft import LoraConfig, inject_adapter_in_model

    if not layers:
        return {}
    # In a list of their own, so that peft changes nothing else of the network.
    around = nn.ModuleList(layers.values())
    config = LoraConfig(r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules=r"\d+")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "adapters"))
        inject_adapter_in_model(config, around)
    return dict(zip(layers, around, strict=True))


def _called(adapters: Adapters, backbone: Backbone, image_size: tuple[int, int]) -> set[str]:
    """Return the paths of the adapted layers that the forward pass calls.

    Some networks read the weight of a layer instead, which bypasses its adapter.
    """
    model, called = adapters.model, set[str]()
    shape = (1, backbone.preprocess.channels, *image_size)
    image = torch.zeros(shape, device=next(model.parameters()).device)
    with ExitStack() as stack:
        for path, layer in adapters.layers.items():
            hook = layer.register_forward_hook(lambda *_, path=path: called.add(path))
            stack.callback(hook.remove)
        for context in (keep_modes(model), attached(adapters)):
            stack.enter_context(context)
        model.eval()
        with plugins.blame(backbone, "fails with adapters (`lora_rank`)"):
            model(image)
    return called
