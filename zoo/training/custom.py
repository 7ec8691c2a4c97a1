"""Code of the caller that takes part in training: what a run records of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from zoo import plugins
from zoo.data.transforms import PixelTransform
from zoo.errors import PluginError, RecipeError
from zoo.hookspecs import Factory
from zoo.io.text import clip
from zoo.recipe import Recipe

#: Maps (logits (N, classes) float32, targets (N, ...)) to their mean loss ().
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Custom:
    """What the caller has replaced or added.

    Attributes:
        loss: Loss of fine-tuning, in place of the task's.
        transform: Applied to each augmented train image.
        loop: What trained the model, if not zoo; else empty.
        declared: Names of those that a plugin declares, with the plugin, by "loss" or "transform".
    """

    loss: Loss | None = None
    transform: PixelTransform | None = None
    loop: str = ""
    declared: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> Mapping[str, str]:
        """Name of each, with its module or plugin: all that a run can record of it."""
        code = {"loss": self.loss, "transform": self.transform}
        found = {what: name_of(each) for what, each in code.items() if each is not None}
        return {**found, **self.declared, **({"training": self.loop} if self.loop else {})}

    def with_declared(self, recipe: Recipe) -> Custom:
        """Return this with the loss and the transform that the recipe names, of plugins.

        Raises:
            PluginError: No plugin declares one of that name, or it can't be created.
            RecipeError: Another one is given as an argument.
        """
        custom = self
        for what in ("loss", "transform"):
            name = getattr(recipe, what)
            if name is None or what in custom.declared:
                continue
            if getattr(custom, what) is not None:
                raise RecipeError(
                    f"`{what}` = {name}, and another {what} is given as an argument",
                    hint="leave out one of the two",
                )
            made, described = _declared(what, name)
            code: dict[str, Any] = {what: made}
            custom = replace(custom, declared={**custom.declared, what: described}, **code)
        return custom

    def check(self, recipe: Recipe) -> None:
        """Check that the recipe has no settings of the loss that is replaced.

        Raises:
            RecipeError: It has, or the loss has parameters, which nothing would train.
        """
        if self.loss is None:
            return
        if isinstance(self.loss, nn.Module) and any(
            p.requires_grad for p in self.loss.parameters()
        ):
            raise RecipeError(
                f"the loss {name_of(self.loss)} has parameters, which would not be trained",
                hint="train it in a loop of your own, and save the model by zoo.save_run",
            )
        given = {
            f"`label_smoothing` = {recipe.label_smoothing:g}": recipe.label_smoothing > 0,
            f"`class_weights` = {recipe.class_weights}": recipe.class_weights == "balanced",
            "`train` = probe": recipe.train == "probe",
            "`teacher`": recipe.teacher is not None,
        }
        if wrong := [text for text, on in given.items() if on]:
            raise RecipeError(
                f"{wrong[0]} has no use for a custom loss", hint="leave out one of the two"
            )


def _declared(what: str, name: str) -> tuple[Callable[..., Any], str]:
    """Create the loss or the transform of that name, and describe it with its plugin."""
    plugin, factory = plugins.declarer(plugins.NAMED[what], name)
    if not isinstance(factory, Factory):
        raise PluginError(f"plugin {plugin} declares {what} {name} as {factory!r}")
    made: object = plugins.make(f"{what} {name} of plugin {plugin}", factory.make)
    if not callable(made):
        raise PluginError(f"{what} {name} of plugin {plugin}: `make` gave {made!r}, no function")
    return made, f"{name} of plugin {plugin}"


#: Nothing but zoo's own code.
NO_CUSTOM = Custom()


def name_of(code: object) -> str:
    """Return the module and the name of a function, or of an object's class."""
    while isinstance(code, functools.partial):
        code = code.func
    name = getattr(code, "__qualname__", type(code).__qualname__)
    return clip(f"{code.__module__}.{name}")


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Describe how the names of custom code differ from those of the run, a line for each."""
    return [
        f"the {what} is {now.get(what, 'that of zoo')}, was {before.get(what, 'that of zoo')}"
        for what in sorted(before.keys() | now.keys())
        if before.get(what) != now.get(what)
    ]
