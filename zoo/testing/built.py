"""Checks of the built network: shapes, groups, stages. They also work on the meta device."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from zoo.backbone import Backbone, Option, OptionValue
from zoo.errors import OptionError, PluginError
from zoo.io.text import listed
from zoo.models.depth import depths
from zoo.models.groups import parameter_groups
from zoo.models.head import head_leaves, in_head
from zoo.models.variant import variant
from zoo.testing.subject import (
    CLASSES,
    OTHER_CLASSES,
    CheckFailed,
    CheckSkipped,
    Subject,
    closed_network,
    logits_in,
)

#: Maximum number of names listed in a message.
MOST = 6


def check_builds_without_weights(subject: Subject) -> None:
    """`build(None, False)` and `build(n, False)` give a network, without any network access."""
    with closed_network() as tried:
        models = {"None": subject.original, str(CLASSES): subject.built}
    if tried:
        raise CheckFailed(
            f"build(..., pretrained=False) asks the network for {tried[0]}: download nothing "
            f"unless `pretrained` is True"
        )
    for argument, model in models.items():
        if not isinstance(model, nn.Module):
            raise CheckFailed(
                f"build({argument}, False) gives a {type(model).__name__}: return the nn.Module"
            )


def check_parameters_are_counted(subject: Subject) -> None:
    """`parameters`, if declared, is the number of parameters with the original head."""
    declared = subject.backbone.parameters
    counted = sum(parameter.numel() for parameter in subject.original.parameters())
    if declared not in (None, counted):
        raise CheckFailed(
            f"it declares {declared:,} parameters, build(None, False) has {counted:,}: "
            f"declare parameters={counted}"
        )


def check_head_is_there(subject: Subject) -> None:
    """Every path of the head exists and has parameters."""
    for model in (subject.original, subject.built):
        try:
            leaves = head_leaves(model, subject.backbone)
        except PluginError as error:
            nearest = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
            raise CheckFailed(
                f"{error}; its last linear layers: {', '.join(nearest[-3:]) or 'none'}"
            ) from error
    for path, leaf in leaves.items():
        if isinstance(leaf, nn.Identity):
            raise CheckFailed(
                f"with {CLASSES} classes its head {path!r} is an Identity: let `build` make a "
                f"classifier for the classes it is asked for"
            )


def check_stages_exist(subject: Subject) -> None:
    """Every path of the stages and the neck is a module, parameter or buffer of the network."""
    try:
        depths(subject.original, subject.backbone)
    except PluginError as error:
        raise CheckFailed(str(error)) from error


def check_head_gets_the_classes(subject: Subject) -> None:
    """Logits have as many columns as classes, in eval and train mode, for two class counts."""
    with torch.no_grad():
        for train in (False, True):
            logits_in(subject, subject.model.train(train), subject.images(), CLASSES)
        logits_in(subject, subject.other.eval(), subject.images(), OTHER_CLASSES)


def check_auxiliary_logits_are_in_order(subject: Subject) -> None:
    """In train mode, the main logits come first, then those of each auxiliary head, in order."""
    aux, paths = subject.backbone.aux, subject.backbone.head_paths
    if not aux:
        return
    model = subject.model.train()
    leaves = [
        [p for name, p in model.named_parameters() if in_head(name, (path,))] for path in paths
    ]
    main = [p for leaf in leaves[: -len(aux)] for p in leaf]
    expected = [main, *leaves[-len(aux) :]]
    for number, (logits, own) in enumerate(zip(model(subject.images()), expected, strict=True)):
        reached = [
            grad is not None
            for grad in torch.autograd.grad(logits.sum(), own, retain_graph=True, allow_unused=True)
        ]
        if not any(reached):
            raise CheckFailed(
                f"in train mode its output {number} does not come from "
                f"{'the main head' if number == 0 else repr(paths[number - len(aux) - 1])}: return "
                f"the main logits first, then those of each auxiliary head, and name the leaves of "
                f"auxiliary heads last in `paths`, in the same order"
            )


def check_every_parameter_is_used(subject: Subject) -> None:
    """In train mode, the outputs depend on every parameter, except those in `unused`."""
    outputs = subject.model.train()(subject.images())
    every = outputs if isinstance(outputs, tuple) else (outputs,)
    trained = {name: p for name, p in subject.model.named_parameters() if p.requires_grad}
    total = torch.stack([logits.sum() for logits in every]).sum()
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    reached = {n for n, gradient in zip(trained, gradients, strict=True) if gradient is not None}
    declared = {n for n in trained if in_head(f"{n}.", subject.backbone.unused)}
    if missing := trained.keys() - reached - declared:
        raise CheckFailed(
            f"the forward pass does not use {some(missing)}: leave these layers out of the model, "
            f"or name them in `unused`, or several processes wait for their gradients"
        )
    if surplus := declared & reached:
        raise CheckFailed(f"the forward pass uses {some(surplus)}: take it out of `unused`")


def check_head_is_what_the_classes_change(subject: Subject) -> None:
    """The head has exactly the tensors whose shape depends on the number of classes."""
    shapes = {k: v.shape for k, v in subject.other.state_dict().items()}
    changing = {k for k, v in subject.model.state_dict().items() if shapes.get(k) != v.shape}
    declared = {k for k in shapes if in_head(k, subject.backbone.head_paths)}
    if missing := changing - declared:
        raise CheckFailed(
            f"the number of classes also changes {some(missing)}: name every such layer in `head`"
        )
    if surplus := declared - changing:
        raise CheckFailed(
            f"its head holds {some(surplus)}, which no class count changes: name the classifier's "
            f"own layer in `head`, and pretrained layers before it in zoo.Head(neck=...)"
        )


def check_num_classes_is_true(subject: Subject) -> None:
    """A `num_classes` attribute, if there is one, equals the number of classes."""
    said = getattr(subject.model, "num_classes", CLASSES)
    if said != CLASSES:
        raise CheckFailed(
            f"its model says num_classes = {said} with a head for {CLASSES}: set it in `build`"
        )


def check_head_group_is_the_head(subject: Subject) -> None:
    """The head group consists of exactly the head's parameters."""
    names: dict[int, set[str]] = {}
    for name, parameter in subject.model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    groups = parameter_groups(subject.model, subject.backbone, lr=1.0, head_lr_mult=10.0)
    of_head = {id(p) for g in groups if g["lr"] == 10.0 for p in g["params"]}
    for parameter_id, own in names.items():
        inside = [n for n in own if in_head(n, subject.backbone.head_paths)]
        if 0 < len(inside) < len(own):
            raise CheckFailed(
                f"{some(own)} are one parameter, of head and backbone: a head that is replaced "
                f"can't share weights"
            )
        if bool(inside) != (parameter_id in of_head):
            raise CheckFailed(f"{some(own)} should {'' if inside else 'not '}be in the head group")


def check_each_parameter_is_in_one_group(subject: Subject) -> None:
    """Every trainable parameter is in exactly one group, also by depth, and tied ones once."""
    found = depths(subject.model, subject.backbone)
    layer_decay = 0.9 if found.declared and not found.uncovered else 1.0
    groups = parameter_groups(subject.model, subject.backbone, lr=1.0, layer_decay=layer_decay)
    grouped = [id(p) for g in groups for p in g["params"]]
    trainable = {id(p) for p in subject.model.parameters() if p.requires_grad}
    if sorted(grouped) != sorted(trainable):
        raise CheckFailed("its parameters are not each in exactly one group")
    frozen = [n for n, p in subject.model.named_parameters() if not p.requires_grad]
    if frozen:
        raise CheckFailed(
            f"it comes with parameters that don't train ({some(frozen)}): leave freezing to zoo, "
            f"or make them buffers"
        )


def check_stages_cover_all(subject: Subject) -> None:
    """Every parameter and buffer outside the head is in a stage or the neck; no stage is empty."""
    found = depths(subject.model, subject.backbone)
    if not found.declared:
        raise CheckSkipped(
            "it declares no stages, so layer_decay and freezing up to a stage are refused"
        )
    if found.uncovered:
        raise CheckFailed(
            f"no stage covers {some(found.uncovered)}: add it to the stage it is computed in, or "
            f"to the neck"
        )
    empty = [found.label(d) for d in range(len(found)) if d not in set(found.of.values())]
    if empty:
        raise CheckFailed(
            f"stage {some(empty)} holds no parameter or buffer outside the head: leave it out"
        )


def check_stages_are_in_order(subject: Subject) -> None:
    """Stages are declared in the order in which a forward pass first reaches them."""
    found = depths(subject.model, subject.backbone)
    if not found.declared:
        raise CheckSkipped("it declares no stages")
    moments = {name: moment for moment, name in enumerate(_calls(subject))}
    order = {
        depth: moment
        for depth, paths in enumerate(found.stages)
        # The first path of a stage decides: the others may be on another branch of the network.
        if (moment := next((m for path in paths if (m := _first(path, moments)) is not None), None))
        is not None
    }
    wrong = next(((a, b) for a, b in itertools.pairwise(order) if order[a] > order[b]), None)
    if wrong:
        raise CheckFailed(
            f"it computes stage {found.label(wrong[1])} before {found.label(wrong[0])}: declare "
            f"stages in the order of the forward pass"
        )


def check_other_sizes(subject: Subject) -> None:
    """The network accepts another input size, or is declared to have a fixed one."""
    backbone = subject.backbone
    if backbone.preprocess.fixed_size:
        _check_resized(subject)
        return
    height, width = backbone.preprocess.height_width
    # Some networks need a multiple of a patch or window, which twice their own size always is.
    for sides in ((height + 32, width + 32), (2 * height, 2 * width)):
        try:
            with torch.no_grad():
                logits_in(subject, subject.model.eval(), subject.images(sides), CLASSES)
        except CheckFailed as error:
            refusal = error
        else:
            return
    raise CheckFailed(
        f"it takes neither 32 pixels more nor twice its size: declare fixed_size=True in "
        f"`preprocess`, and `resized` if it can be built for another size. {refusal}"
    ) from refusal


def _check_resized(subject: Subject) -> None:
    backbone = subject.backbone
    if backbone.resized is None:
        raise CheckSkipped("it is of a fixed size and declares no `resized`")
    size = max(backbone.preprocess.height_width)
    refused = []
    for other_size in (size // 2, size * 2):
        try:
            other = backbone.resized(other_size)
        except ValueError as error:
            refused.append(str(error))
            continue
        if not isinstance(other, Backbone) or other.preprocess.size != other_size:
            raise CheckFailed(
                f"resized({other_size}) gives no zoo.Backbone with preprocess.size {other_size}"
            )
        if _configurable(other) != _configurable(backbone):
            raise CheckFailed(
                f"resized({other_size}) gives a zoo.Backbone with other `options`, or without "
                f"`configured`: declare the same"
            )
        model = subject.fresh(CLASSES, other)
        with torch.no_grad():
            images = subject.images((other_size, other_size))
            logits_in(subject, model.eval(), images, CLASSES)
        return
    if not all(refused):
        raise CheckFailed("`resized` refuses a size without a reason: raise ValueError(reason)")
    raise CheckSkipped(f"it takes neither half nor twice its size: {refused[0]}")


def check_options_are_taken(subject: Subject) -> None:
    """Each option, set to another value than its default, gives another network with right logits.

    An option that `configured` refuses with a reason is left out.
    """
    backbone = subject.backbone
    if not backbone.options:
        raise CheckSkipped("it declares no options")
    taken: dict[str, OptionValue] = {}
    refused: list[str] = []
    for name, option in backbone.options.items():
        if (value := _other_value(option)) is None:
            continue
        try:
            configured = variant(backbone, options={name: value})
        except OptionError as error:
            refused.append(str(error))
            if not str(error.__cause__):
                raise CheckFailed(
                    f"`configured` refuses {name} without a reason: raise ValueError(reason)"
                ) from error
            continue
        model = _built_with(subject, configured, f"{name}={value}")
        if value != option.default and _described(model) == _described(subject.model):
            raise CheckFailed(
                f"its network is the same with {name}={value}: let `build` or `configured` set it, "
                f"or leave the option out"
            )
        taken[name] = value
    if not taken:
        raise CheckSkipped("; ".join(["its network takes none of its options", *refused]))
    configured = variant(backbone, options=taken)
    if len(taken) > 1:
        model = _built_with(subject, configured, f"all of {', '.join(taken)}")
    with torch.no_grad():
        for train in (False, True):
            logits_in(subject, model.train(train), subject.images(backbone=configured), CLASSES)


def _built_with(subject: Subject, configured: Backbone, options: str) -> nn.Module:
    try:
        return subject.fresh(CLASSES, configured)
    except PluginError as error:
        raise CheckFailed(
            f"it can't be built with {options} ({error}): let `build` take options as keyword "
            f"arguments, or declare `configured`"
        ) from error


def _configurable(backbone: Backbone) -> tuple[set[str], bool]:
    return set(backbone.options), backbone.configured is not None


def _other_value(option: Option) -> OptionValue | None:
    """Return a valid value other than the default; of a text, whose values are not known, that."""
    if option.kind is bool:
        return not option.default
    if option.kind is str:
        return option.default
    own = option.default if isinstance(option.default, int | float) else 0
    low, high = option.minimum or 0, option.maximum
    # Rates inside their range: the ends may turn a layer off, or all of its outputs. A half is the
    # default of some libraries, which they need not state.
    for value in (*([] if high is None else [low + (high - low) / 4, (low + high) / 2]), own + 1):
        with contextlib.suppress(ValueError):
            found = option.checked(int(value) if option.kind is int else value)
            if found != option.default:
                return found
    return own


def _described(model: nn.Module) -> object:
    """Return what distinguishes networks without their values: layers, settings and shapes."""
    layers = {
        name: (
            type(module),
            module.extra_repr(),
            {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str)},
        )
        for name, module in model.train().named_modules()
    }
    return layers, {name: tensor.shape for name, tensor in model.state_dict().items()}


def check_modes_switch(subject: Subject) -> None:
    """`eval()` puts every layer into eval mode, `train()` every layer into train mode."""
    for wanted in (False, True):
        subject.model.train(wanted)
        wrong = [
            name or "itself" for name, m in subject.model.named_modules() if m.training != wanted
        ]
        if wrong:
            mode = "train" if wanted else "eval"
            raise CheckFailed(
                f"{mode}() leaves {some(wrong)} as it was: don't override train(); zoo itself "
                f"puts frozen layers into eval mode"
            )


def _first(path: str, moments: dict[str, int]) -> int | None:
    """Return when a module at or below that path is first called; None if none is."""
    own = [m for name, m in moments.items() if f"{name}.".startswith(f"{path}.")]
    return min(own, default=None)


def _calls(subject: Subject) -> Iterator[str]:
    """Return the names of leaf modules in the order in which a forward pass first calls them."""
    seen: dict[str, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda m, args, name=name: seen.setdefault(name))
        for name, module in subject.model.named_modules()
        if not any(module.children())
    ]
    try:
        with torch.no_grad():
            logits_in(subject, subject.model.eval(), subject.images(), CLASSES)
    finally:
        for hook in hooks:
            hook.remove()
    return iter(seen)


def some(names: Iterable[str]) -> str:
    """Return the first few names, for a message."""
    return listed(sorted(names), MOST)
