"""Messages about invalid keys and values of a recipe."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.io.text import clip
from zoo.recipe.aliases import meant


def problem(error: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Describe an error, and suggest what was probably meant."""
    if error["type"] == "value_error":  # Raised by Recipe's own validators, with a complete text.
        return clip(str(error["ctx"]["error"]), 400)
    key = clip(".".join(str(part) for part in error["loc"]))
    if error["type"] == "extra_forbidden":
        if key == "search":
            return "unknown key 'search'; only zoo tune reads ranges"
        if (text := meant(key, keys)) is not None:
            return f"unknown key {key!r}; {text}".replace("`", "'")
        nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"keys: {', '.join(keys)}"
        return f"unknown key {key!r}; {hint}"
    given = error["input"]
    hint = ""
    if error["type"] == "literal_error" and isinstance(given, str):
        choices = [c.strip("'") for c in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        nearest = difflib.get_close_matches(given, choices, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{key} = {clip(repr(given))}: {error['msg'][0].lower()}{error['msg'][1:]}{hint}"
