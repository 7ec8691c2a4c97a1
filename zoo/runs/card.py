"""The model card of a run, README.md in the run folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from zoo.backbone import Backbone
from zoo.io.text import markdown, printable
from zoo.models.variant import options_text
from zoo.runs.write import CARD, ModelInfo, write_file
from zoo.tasks import MULTI_LABEL, metric_label
from zoo.weights import describe


def write_card(
    folder: Path,
    info: ModelInfo,
    backbone: Backbone,
    *,
    train: Sequence[int],
    val: Sequence[int],
    val_images: int,
) -> None:
    """Write the model card.

    Args:
        folder: The run folder.
        info: The metadata of model.safetensors.
        backbone: The declaration of the run's backbone.
        train: Number of training images of each class.
        val: Number of validation images of each class.
        val_images: Total number of validation images.
    """
    names = ", ".join(map(markdown, info.class_names))
    use = shlex.quote(printable(str(folder)))
    rows = "\n".join(
        f"| {markdown(name)} | {t} | {v} |"
        for name, t, v in zip(info.class_names, train, val, strict=True)
    )
    several = info.task == MULTI_LABEL.name
    metric = metric_label(info.score_name)
    score = f"{info.score:.2%} ({info.stage}, the best)"
    random_warning = (
        ""
        if info.recipe.weights != "none"
        else "\n**It started from random weights, not from pretrained ones.**\n"
    )
    kind = "A multi-label image classifier" if several else "An image classifier"
    height, width = info.preprocess.height_width
    text = f"""# {markdown(backbone.name)}, fine-tuned

{kind} for {len(info.class_names)} classes: {names}.
{random_warning}
| | |
|---|---|
| {metric} on {val_images} held-out images | {score} |
| probabilities | of the logits divided by {info.temperature:g}, fitted on the held-out images |
| backbone | {backbone.name} |
{_options(info)}| started from | {markdown(info.weights_source)} |
{_licence(info, backbone)}| input | RGB, {height} x {width} pixels |
| made with | {", ".join(f"{k} {v}" for k, v in info.versions.items())} |
{"".join(f"| on its way | {markdown(line)} |{chr(10)}" for line in info.history)}
The best epoch was chosen on the held-out images, so expect a little less on new ones.

## Use

    zoo predict {use} IMAGE_OR_DIR...
    zoo evaluate {use} --data DIR

    import zoo
    run = zoo.load({str(folder)!r})
    run.predict("photo.jpg")

`model.safetensors` alone is enough for these. `recipe.toml` holds all settings.

## Images

| class | train | val |
|---|---|---|
{rows}
"""
    write_file(folder / CARD, text.encode())


def _options(info: ModelInfo) -> str:
    options = info.recipe.backbone_options
    return f"| its options | {markdown(options_text(options))} |\n" if options else ""


def _licence(info: ModelInfo, backbone: Backbone) -> str:
    # The licence of any other weights, if known, is part of weights_source.
    if backbone.weights is None or info.weights_source != describe(backbone.weights):
        return ""
    return f"| licence of those weights | {markdown(backbone.weights.license or 'not stated')} |\n"
