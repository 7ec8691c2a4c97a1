"""The config: the recipe with every value resolved, and where each value came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo.events import Listener, Note
from zoo.recipe import Recipe, change


@dataclass(frozen=True, kw_only=True)
class Config:
    """The resolved settings of a run.

    Attributes:
        recipe: All settings as resolved; `hflip` and `crop_scale` may be left to the probe.
        origins: Where each value came from, by field: `default`, `recipe`, `given` (as an option or
            an argument), or `decided: ...` with the reason.
    """

    recipe: Recipe
    origins: Mapping[str, str]

    def decided(self, why: str, **values: Any) -> Config:
        """Return a config with these values, which were decided for the reason `why`."""
        origins = {**self.origins, **dict.fromkeys(values, f"decided: {why}")}
        return replace(self, recipe=change(self.recipe, **values), origins=origins)


class Resolver:
    """Decides what a recipe leaves open; the only place where settings change before a run.

    Args:
        recipe: As given by the user.
        given: Fields that were given as options or arguments; other fields that are set come from
            the recipe.
        origins: Origins of the values of a resumed run, by field.
        listen: Called with a `Note` on each decision.
    """

    def __init__(
        self,
        recipe: Recipe,
        given: Collection[str] = (),
        origins: Mapping[str, str] | None = None,
        *,
        listen: Listener,
    ) -> None:
        self.recipe = recipe
        self._listen = listen
        self._asked = frozenset(recipe.model_fields_set)
        self._origins = {
            name: "given" if name in given else "recipe" if name in self._asked else "default"
            for name in Recipe.model_fields
        }
        self._origins.update({k: v for k, v in (origins or {}).items() if k not in given})

    def asked(self, name: str) -> bool:
        """Return whether the user set a field."""
        return name in self._asked

    def changed(self, name: str) -> bool:
        """Return whether a field has a value of the user's that is not its default."""
        default = Recipe.model_fields[name].default
        users = self._origins[name] in ("given", "recipe")
        return users and getattr(self.recipe, name) != default

    def decide(self, why: str, **values: Any) -> None:
        """Set those of these fields that are still open, and report the values."""
        open_ones = {k: v for k, v in values.items() if k not in self.recipe.model_fields_set}
        if open_ones:
            listed = ", ".join(f"{key} = {value}" for key, value in open_ones.items())
            self._listen(Note(text=f"{why}: {listed} (unless set explicitly)"))
        self.replace(why, **open_ones)

    def replace(self, why: str, **values: Any) -> None:
        """Replace values, even those set by the user, by equivalent or by the only possible ones.

        A value that does not change keeps its origin.
        """
        changed = {k: v for k, v in values.items() if getattr(self.recipe, k) != v}
        self.recipe = change(self.recipe, **values)
        self._origins.update(dict.fromkeys(changed, f"decided: {why}"))

    def spell_out(self, **values: Any) -> None:
        """Replace values by equivalent ones, such as absolute paths; origins do not change."""
        self.recipe = change(self.recipe, **values)

    def config(self) -> Config:
        """Return the resolved config."""
        return Config(recipe=self.recipe, origins=dict(self._origins))
