"""What is wrong with a recipe's keys and values, in words."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.io.text import clip


def problem(error: Mapping[str, Any], keys: Sequence[str]) -> str:
    """One thing that is wrong, and what was probably meant.

    Args:
        error: As pydantic tells it.
        keys: All that there are.
    """
    if error["type"] == "value_error":  # Of Recipe's own validators, whose text says it all.
        return clip(str(error["ctx"]["error"]), 400)
    key = clip(".".join(str(part) for part in error["loc"]))
    if error["type"] == "extra_forbidden":
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
