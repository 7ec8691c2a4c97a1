"""Build a classifier with a new head, and check that all other tensors equal the loaded ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from zoo import plugins
from zoo import weights as zoo_weights
from zoo.backbone import Backbone, OptionValue
from zoo.errors import OptionError, WeightsError
from zoo.io.text import clip, listed
from zoo.models.depth import depths
from zoo.models.head import HeadInit, ensure_head, in_head, initialise_head
from zoo.models.variant import variant
from zoo.weights.files import misfits

#: Old files lack batch norm's step counter, which only momentum=None uses.
_OPTIONAL = "num_batches_tracked"


def build(
    backbone: str | Backbone,
    num_classes: int,
    *,
    weights: str = "pretrained",
    head_init: HeadInit = "normal",
    image_size: int | None = None,
    options: Mapping[str, OptionValue] | None = None,
) -> nn.Module:
    """Build a backbone with a new head, for use in any training loop.

    Args:
        backbone: Name (`resnet18`, `timm/resnet18`) or declaration of the backbone.
        num_classes: Number of outputs of the new head.
        weights: `pretrained`, `none`, or a path, as in `zoo finetune --weights`.
        head_init: `normal`, `xavier_uniform` or `library`, as in the recipe. The values are drawn
            from torch's global random state.
        image_size: Side of the square input in pixels, to build a backbone of fixed input size for
            another size: its position embeddings are resampled as its library does.
        options: Values of the backbone's own options, such as `{"drop_path_rate": 0.1}`.

    Returns:
        A module that maps (N, 3, H, W) float32 to logits (N, num_classes); with the option
        `in_chans`, images have as many channels.

    Raises:
        UnknownBackboneError: If there is no such backbone.
        PluginError: If the plugin's code fails, or the model lacks the declared head.
        WeightsError: If the weights are not available or don't fit.
        SizeError: If the backbone can't be built for that size.
        OptionError: If it does not have such options, or can't be built with them; or if
            `num_classes` is not a whole number of at least 1.
    """
    number: object = num_classes
    if not isinstance(number, Integral) or number < 1:
        raise OptionError(f"num_classes = {num_classes!r} must be a whole number of at least 1")
    if isinstance(backbone, str):
        backbone = plugins.get(backbone)
    backbone = variant(backbone, size=image_size, options=options)
    loaded = zoo_weights.load(backbone, weights)
    for note in loaded.notes:
        warnings.warn(note, stacklevel=2)
    return build_from(backbone, num_classes, loaded, head_init=head_init)


def build_from(
    backbone: Backbone,
    num_classes: int,
    loaded: zoo_weights.LoadedWeights,
    *,
    head_init: HeadInit = "normal",
) -> nn.Module:
    """Build a backbone as `build` does, from weights that are already loaded."""
    model = plugins.build(backbone, num_classes, False)
    ensure_head(model, backbone, num_classes)
    depths(model, backbone)  # Report a missing path now, not when it is first used.
    initialise_head(model, backbone, head_init)
    # A process that trains beside others would wait for their gradients.
    for name, parameter in model.named_parameters():
        if in_head(f"{name}.", backbone.unused):
            parameter.requires_grad_(False)
    if loaded.state_dict is not None:
        load_all_but_head(model, loaded.state_dict, backbone, source=loaded.source)
    return model


def build_for(backbone: Backbone, num_classes: int, state_dict: dict[str, Tensor]) -> nn.Module:
    """Build a classifier in eval mode with all weights of a run, head included.

    Raises:
        WeightsError: If the state dict does not fit this backbone with that many classes.
    """
    return load_whole(build_empty(backbone, num_classes), backbone, state_dict)


def build_empty(backbone: Backbone, num_classes: int) -> nn.Module:
    """Build a classifier whose weights, head included, will be loaded from a run."""
    model = plugins.build(backbone, num_classes, False)
    ensure_head(model, backbone, num_classes)
    return model


def refuse_larger(
    backbone: Backbone, num_classes: int, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a backbone whose network is larger than the file that is said to hold its weights.

    It is built on the meta device, which allocates nothing, up to the first parameter too many.

    Raises:
        WeightsError: If the network has more parameters than the file has values, or more tensors.
        PluginError: If it can't be built.
    """
    # Twice as many: the original head may be replaced, and tied weights are stored once.
    values = 2 * sum(map(math.prod, shapes.values())) + 2**20
    seen = [0, 0]

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            seen[0] += 1
            seen[1] += parameter.numel()
            if seen[0] > 2 * len(shapes) + 100 or seen[1] > values:
                raise WeightsError(f"the weights don't fit {backbone.name}: its network is larger")

    handle = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            plugins.build(backbone, num_classes, False)
    finally:
        handle.remove()


def load_whole(model: nn.Module, backbone: Backbone, state_dict: dict[str, Tensor]) -> nn.Module:
    """Load all weights strictly, head included, and return the model in eval mode.

    Raises:
        WeightsError: If they don't fit this backbone with that many classes.
    """
    own = model.state_dict()
    if own.keys() == state_dict.keys():
        own.update(state_dict)
    try:
        model.load_state_dict(own if own.keys() == state_dict.keys() else state_dict)
    except Exception as error:  # a module's own loading code can raise anything
        reason = clip(str(error), 1000)
        raise WeightsError(f"the weights don't fit {backbone.name}: {reason}") from error
    return model.eval()


def load_all_but_head(
    model: nn.Module, state_dict: dict[str, Tensor], backbone: Backbone, *, source: str
) -> None:
    """Load everything but the head, strictly.

    Raises:
        WeightsError: If a tensor outside the head is missing, unexpected or of another shape; the
            message lists them. The model is not changed.
    """
    own = {k: v for k, v in model.state_dict().items() if not in_head(k, backbone.head_paths)}
    given = {k: v for k, v in state_dict.items() if not in_head(k, backbone.head_paths)}
    if said := misfits(given, own, (_OPTIONAL,)):
        raise WeightsError(
            f"the weights ({source}) don't fit backbone {backbone.name}; outside its head "
            f"({', '.join(backbone.head_paths)}) these tensors are\n{said}"
        )
    # The model's own dict carries the version metadata that some modules check while loading.
    complete = model.state_dict()
    complete.update(given)
    model.load_state_dict(complete)
    loaded = model.state_dict()
    changed = [k for k, v in given.items() if not _equal(loaded[k], v.to(loaded[k].dtype))]
    if changed:
        raise WeightsError(
            f"backbone {backbone.name} changes weights while loading them: {listed(changed)}"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether all values are equal, where NaN equals NaN."""
    return torch.equal(one, other) or bool(
        one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    )
