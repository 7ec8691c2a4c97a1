"""The recipe resolved: every value, and where it came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo.events import Listener, Note
from zoo.recipe import Recipe, change


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a run does.

    Attributes:
        recipe: All settings as resolved; `hflip` and `crop_scale` may be left to the probe.
        origins: Where each value came from, by field: `default`, `recipe`, `given` (as an option or
            an argument), or `decided: ...` with the reason.
    """

    recipe: Recipe
    origins: Mapping[str, str]

    def decided(self, why: str, **values: Any) -> Config:
        """With other values, and why."""
        origins = {**self.origins, **dict.fromkeys(values, f"decided: {why}")}
        return replace(self, recipe=change(self.recipe, **values), origins=origins)


class Resolver:
    """Decides what a recipe leaves open; the one place where settings change before a run.

    Args:
        recipe: As asked for.
        given: Fields that were given as options or arguments; the others that are set are the
            recipe's.
        origins: Of a run that goes on: where its values came from.
        listen: Hears a `Note` on what is decided.

    Attributes:
        recipe: As resolved so far.
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
        """Whether the value of a field was asked for."""
        return name in self._asked

    def decide(self, why: str, **values: Any) -> None:
        """Values for fields that are still open, and why: the others stay as they are.

        Args:
            why: As in "with SGD".
            **values: By field.
        """
        open_ones = {k: v for k, v in values.items() if k not in self.recipe.model_fields_set}
        if open_ones:
            listed = ", ".join(f"{key} = {value}" for key, value in open_ones.items())
            self._listen(Note(text=f"{why}: {listed} (unless set explicitly)"))
        self.replace(why, **open_ones)

    def replace(self, why: str, **values: Any) -> None:
        """Values in place of those of a recipe, asked for or not, which mean the same or can't be.

        One that is equal keeps its origin.
        """
        changed = {k: v for k, v in values.items() if getattr(self.recipe, k) != v}
        self.recipe = change(self.recipe, **values)
        self._origins.update(dict.fromkeys(changed, f"decided: {why}"))

    def spell_out(self, **values: Any) -> None:
        """Values that mean what is there already, such as an absolute path; the origin stays."""
        self.recipe = change(self.recipe, **values)

    def config(self) -> Config:
        """What was resolved."""
        return Config(recipe=self.recipe, origins=dict(self._origins))
