"""Checks of the declaration alone, without building the network."""

from __future__ import annotations

import re
from multiprocessing.reduction import ForkingPickler

from zoo.backbone import Backbone
from zoo.plugins import NAME, TAG, explain, files
from zoo.testing.subject import CLASSES, CheckFailed, CheckSkipped, Subject


def check_name(subject: Subject) -> None:
    """The name consists of letters, digits, `.`, `_` and `-`."""
    bare = subject.backbone.name.rpartition("/")[2]
    if not NAME.fullmatch(bare):
        raise CheckFailed(
            f"its name {bare!r} must start with a letter or digit and hold only letters, digits, "
            f"'.', '_' and '-': rename it"
        )


def check_head_is_named(subject: Subject) -> None:
    """The head has at least one path, and a path for every auxiliary loss."""
    paths, aux = subject.backbone.head_paths, subject.backbone.aux
    if not paths or not all(paths):
        raise CheckFailed("its `head` names no layer: give the dotted path of the classifier")
    if len(set(paths)) < len(paths):
        raise CheckFailed(f"its `head` names a layer twice: {', '.join(paths)}")
    if len(aux) >= len(paths):
        raise CheckFailed(
            f"its head declares {len(aux)} auxiliary losses for {len(paths)} layers: name in "
            f"`paths` the layers of the auxiliary heads too"
        )
    nested = [p for p in subject.backbone.neck if p in paths]
    if nested:
        raise CheckFailed(f"{', '.join(nested)} can't be both head and neck: take it from one")


def check_preprocess_is_plausible(subject: Subject) -> None:
    """Mean and standard deviation are plausible for pixel values in 0..1."""
    mean, std = subject.backbone.preprocess.mean, subject.backbone.preprocess.std
    if not all(0 <= m <= 1 for m in mean) or not all(0 < s <= 1 for s in std):
        raise CheckFailed(
            f"`preprocess` has mean {mean} and std {std}, which are not of pixel values in 0..1: "
            f"divide values for 0..255 by 255"
        )


def check_options_are_named(subject: Subject) -> None:
    """The names of options are names of Python arguments, other than those `build` always gets."""
    if not subject.backbone.options:
        raise CheckSkipped("it declares no options")
    wrong = [
        name
        for name in subject.backbone.options
        if not name.isidentifier() or name in ("num_classes", "pretrained")
    ]
    if wrong:
        raise CheckFailed(
            f"its option {wrong[0]!r} can't be an argument of `build` beside num_classes and "
            f"pretrained: rename it"
        )


def check_weights_are_described(subject: Subject) -> None:
    """The SHA-256, if declared, consists of all or the leading hex digits of one."""
    weights = subject.backbone.weights
    if weights is None:
        raise CheckSkipped("it declares no pretrained weights")
    if weights.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{8,64}", weights.sha256):
        raise CheckFailed(
            f"its weights' sha256 {weights.sha256!r} is not a SHA-256: give all 64 hex "
            f"digits, or the leading ones that are published, at least 8"
        )


def check_tags_are_declared(subject: Subject) -> None:
    """Each tag gives a `Backbone` with the weights of that tag; that of `weights` is among them."""
    backbone = subject.backbone
    for tag, declare in backbone.tagged.items():
        if not TAG.fullmatch(tag):
            raise CheckFailed(
                f"its tag {tag!r} must hold only letters, digits, '_' and '-': rename it"
            )
        try:
            other = declare()
        except Exception as error:
            raise CheckFailed(
                f"its tag {tag} can't be declared: {explain(error)}; make `tagged` functions "
                f"without arguments that return a Backbone"
            ) from error
        named = other.weights.tag if isinstance(other, Backbone) and other.weights else None
        if named != tag:
            raise CheckFailed(
                f"its tag {tag} gives weights with tag {named!r}: return a Backbone whose "
                f"`weights` have `tag={tag!r}`"
            )
    own = backbone.weights.tag if backbone.weights else None
    if backbone.tagged and own is not None and own not in backbone.tagged:
        raise CheckFailed(f"its default weights have tag {own}: add it to `tagged`")


def check_files_are_json(subject: Subject) -> None:
    """`files` gives JSON objects by plain file names, for any class names."""
    for names in (("a", "b"), tuple(f"class {number}" for number in range(CLASSES))):
        files(subject.backbone, names, subject.backbone.preprocess)


def check_declaration_can_be_sent_to_processes(subject: Subject) -> None:
    """The declaration can be pickled, as spawned processes and data-loading workers require."""
    try:
        ForkingPickler.dumps(subject.backbone)
    except Exception as error:
        raise CheckFailed(
            f"its declaration can't be sent to another process ({explain(error)}): make `build`, "
            f"`convert`, `replace`, `stages`, `resized`, `configured`, `logits` and `files` "
            f"functions of a module or functools.partial of such, no lambdas and no functions "
            f"inside functions"
        ) from error
