"""Options of timm's networks: dropout, stochastic depth and channels of images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import zoo
import zoo.backbone

#: Declared for every network: only building one shows whether it takes an option.
OPTIONS = {
    "drop_rate": zoo.Option(
        kind=float, minimum=0, maximum=1, help="Dropout before the classifier, in some inside too."
    ),
    "drop_path_rate": zoo.Option(
        kind=float, minimum=0, maximum=1, help="Stochastic depth: rate of the deepest block."
    ),
    "in_chans": zoo.backbone.IN_CHANS,
}


def configured(backbone: zoo.Backbone, options: Mapping[str, Any]) -> zoo.Backbone:
    """Return the same network built with options, which timm also reads from config.json.

    Raises:
        ValueError: If the network does not take one of them.
    """
    import torch

    build = functools.partial(backbone.build, **options)
    try:
        with torch.device("meta"):
            build(None, False)
    except TypeError as error:
        raise ValueError(f"timm's network does not take that: {error}") from error
    files = backbone.files and functools.partial(backbone.files, **options)
    return dataclasses.replace(backbone, build=build, files=files)
