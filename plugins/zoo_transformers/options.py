"""Options of transformers' networks: dropout, stochastic depth and channels of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zoo
import zoo.backbone
from zoo_transformers.preprocessing import BGR

#: Meaning of each rate, by its key in a configuration.
RATES = {
    "attention_dropout": "Dropout of attention weights.",
    "attention_probs_dropout_prob": "Dropout of attention weights.",
    "drop_path_rate": "Stochastic depth: rate of the deepest block.",
    "hidden_dropout_prob": "Dropout in the blocks.",
}


def options_of(config: Mapping[str, Any]) -> dict[str, zoo.Option]:
    """Return `zoo.Backbone.options` of a network: what its configuration has."""
    options = {
        key: zoo.Option(kind=float, default=value, minimum=0, maximum=1, help=text)
        for key, text in RATES.items()
        if isinstance(value := config.get(key), float) and 0 <= value <= 1
    }
    # Networks that take blue first would take a fourth band for it.
    named = {**config, **config.get("vision_config", {})}
    if "num_channels" in named and config["model_type"] not in BGR:
        options["in_chans"] = zoo.backbone.IN_CHANS
    return options
