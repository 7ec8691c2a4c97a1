"""The files with which transformers loads a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import zoo
from zoo_transformers.preprocessing import processor_of


def files(
    config: Mapping[str, Any],
    architecture: str,
    class_names: Sequence[str],
    preprocess: zoo.Preprocess,
) -> dict[str, dict[str, Any]]:
    """Return config.json and preprocessor_config.json, as `from_pretrained` reads them."""
    own = {
        **config,
        "architectures": [architecture],
        "id2label": {str(number): name for number, name in enumerate(class_names)},
        "label2id": {name: number for number, name in enumerate(class_names)},
        # Of the run's task, which the core adds if it is not that of the default.
        "problem_type": None,
    }
    return {
        "config.json": own,
        "preprocessor_config.json": processor_of(preprocess, config["model_type"]),
    }
