"""The model card of a run, README.md in the run folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from zoo.backbone import CHANNELS, Backbone
from zoo.io.text import markdown, printable
from zoo.models.variant import options_text
from zoo.runs.figures import Figure, doubt, interval, unmeasured
from zoo.runs.shift import describe_shift
from zoo.runs.write import CARD, ModelInfo, write_file
from zoo.tasks import TASKS, metric_label
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
    metric = metric_label(info.score_name)
    doubts = [text for split, f in info.figures.items() if (text := doubt(f, split)) is not None]
    shifted = [] if info.shift is None or not info.shift.found else [describe_shift(info.shift)]
    warnings = "".join(f"\n**{markdown(text)}.**\n" for text in (*doubts, *shifted))
    if "folds" in info.figures:
        measured = _out_of_fold(info)
        chosen = "It was trained on all images; the runs on folds, with fewer each, measure it."
    elif info.score is None:
        measured = f"| {metric} | not measured on held-out images ({info.stage}) |"
        chosen = "It was trained on all images, so none are left to measure it on."
    else:
        score = f"{info.score:.2%} ({info.stage}{'' if doubts else ', the best'})"
        measured = f"| {metric} on {val_images} held-out images | {score} |"
        chosen = "The best epoch was chosen on the val images, so expect a little less on new ones."
    random_warning = (
        ""
        if info.recipe.weights != "none"
        else "\n**It started from random weights, not from pretrained ones.**\n"
    )
    kind = "An" if TASKS[info.task].exclusive else f"A {info.task}"
    height, width = info.preprocess.height_width
    colours = CHANNELS[info.preprocess.channels]
    text = f"""{_model_index(info)}# {markdown(backbone.name)}, fine-tuned

{kind} image classifier for {len(info.class_names)} classes: {names}.
{random_warning}{warnings}
| | |
|---|---|
{measured}
{_calibration(info, val_images)}| backbone | {backbone.name} |
{_options(info)}| started from | {markdown(info.weights_source)} |
{_licence(info, backbone)}| input | {colours}, {height} x {width} pixels |
{_transfer(info)}| made with | {", ".join(f"{k} {v}" for k, v in info.versions.items())} |
{"".join(f"| on its way | {markdown(line)} |{chr(10)}" for line in info.history)}
{chosen}
{_figures(info)}
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
{_not_measured(info, val)}"""
    write_file(folder / CARD, text.encode())


#: What the temperature is fitted on, by `ModelInfo.calibrated`.
_HELD_OUT = {
    "val": "the val images",
    "folds": "the predictions of the runs on folds for images that they had not learnt from",
    "probe": "predictions of the probe's cross-validation for images that it had not learnt from",
}


def _calibration(info: ModelInfo, val_images: int) -> str:
    if info.calibrated:
        what = f"of the logits divided by {info.temperature:g}, "
        what += f"fitted on {_HELD_OUT[info.calibrated]}"
    elif not val_images:
        what = "not calibrated: no held-out images"
    else:
        # The card of a run that is not complete.
        return ""
    return f"| probabilities | {what} |\n"


def _not_measured(info: ModelInfo, val: Sequence[int]) -> str:
    text = unmeasured(info.class_names, val, "val")
    return "" if text is None else f"\n{markdown(text[0].upper() + text[1:])}.\n"


def _figures(info: ModelInfo) -> str:
    """Return the section with the figures on each split; empty before the run is complete."""
    if not info.figures:
        return ""
    splits = list(info.figures)
    names = dict.fromkeys(name for found in info.figures.values() for name in found.metrics)
    lines = [
        " | ".join(
            [
                "exact matches"
                if name == "accuracy" and not TASKS[info.task].exclusive
                else metric_label(name),
                *(_shown(name, info.figures[split].metrics.get(name)) for split in splits),
            ]
        )
        for name in names
    ]
    baselines = [f"{f.baseline.value:.2%}" for f in info.figures.values()]
    what = markdown(next(iter(info.figures.values())).baseline_what)
    lines.append(" | ".join([f"baseline: {what}", *baselines]))
    lines.append(" | ".join(["images", *(str(f.images) for f in info.figures.values())]))
    rows = "\n".join(f"| {line} |" for line in lines)
    measured = " The test images were used for no choice." if "test" in splits else ""
    return f"""
## Figures

With 95% confidence intervals.{measured}

| | {" | ".join(splits)} |
|---|{"---|" * len(splits)}
{rows}
"""


def _shown(name: str, figure: Figure | None) -> str:
    if figure is None:
        return ""
    if name == "log_loss":
        return f"{figure.value:.4f} ({figure.low:.4f}-{figure.high:.4f})"
    return f"{figure.value:.2%} ({interval(figure)})"


def _model_index(info: ModelInfo) -> str:
    """Return the metadata of the Hugging Face Hub: the figures as a model index, in YAML.

    JSON is valid YAML. See https://huggingface.co/docs/hub/model-cards#evaluation-results.
    """
    if not info.figures:
        return ""
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"type": "custom", "name": f"{split} images", "split": split},
            "metrics": [
                {"type": name, "name": metric_label(name), "value": round(figure.value, 6)}
                for name, figure in found.metrics.items()
            ],
        }
        for split, found in info.figures.items()
    ]
    index = [{"name": info.backbone, "results": results}]
    return f"---\npipeline_tag: image-classification\nmodel-index: {json.dumps(index)}\n---\n\n"


def _out_of_fold(info: ModelInfo) -> str:
    found = info.figures["folds"]
    main = found.metrics[found.main]
    return (
        f"| {metric_label(found.main)} of runs on folds, over {found.images} images, each held out "
        f"once | {main.value:.2%} ({interval(main)}) |"
    )


def _options(info: ModelInfo) -> str:
    options = info.recipe.backbone_options
    return f"| its options | {markdown(options_text(options))} |\n" if options else ""


def _transfer(info: ModelInfo) -> str:
    found = info.transfer
    if found is None:
        return ""
    verdict = "help" if found.helps else "do not clearly help"
    return (
        f"| pretrained features | {verdict}: a probe on them has {metric_label(found.metric)} "
        f"{found.pretrained:.0%}, on features of random weights {found.random:.0%}, without "
        f"features {found.baseline:.0%} ({found.images} train images of {found.classes} classes, "
        f"p = {found.p:.2g}) |\n"
    )


def _licence(info: ModelInfo, backbone: Backbone) -> str:
    # The licence of any other weights, if known, is part of weights_source.
    if backbone.weights is None or info.weights_source != describe(backbone.weights):
        return ""
    return f"| licence of those weights | {markdown(backbone.weights.license or 'not stated')} |\n"
