"""Options of transformers' networks: dropout and stochastic depth, as in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zoo

#: Meaning of each rate, by its key in a configuration.
RATES = {
    "attention_dropout": "Dropout of attention weights.",
    "attention_probs_dropout_prob": "Dropout of attention weights.",
    "drop_path_rate": "Stochastic depth: rate of the deepest block.",
    "hidden_dropout_prob": "Dropout in the blocks.",
}


def options_of(config: Mapping[str, Any]) -> dict[str, zoo.Option]:
    """Return `zoo.Backbone.options` of a network: the rates that its configuration has."""
    return {
        key: zoo.Option(kind=float, default=value, minimum=0, maximum=1, help=text)
        for key, text in RATES.items()
        if isinstance(value := config.get(key), float) and 0 <= value <= 1
    }
