"""The model card of a run, README.md in the run folder."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.backbone import CHANNELS, Backbone
from zoo.io.text import markdown, printable
from zoo.models.variant import options_text
from zoo.runs.figures import LEVEL, ClassFigures, Figure, doubt, figure_text, interval, unmeasured
from zoo.runs.shift import describe_shift
from zoo.runs.write import (
    CARD,
    CONFIG,
    HELD_OUT,
    MODEL,
    ModelInfo,
    describe_thresholds,
    files_of,
    write_file,
)
from zoo.tasks import TASKS, metric_label
from zoo.tasks.thresholds import THRESHOLD
from zoo.weights import describe

#: Maximum number of classes whose figures are in the card.
MOST_CLASSES = 100

#: Licences that are known to the Hub by these identifiers, of
#: https://huggingface.co/docs/hub/repositories-licenses: those that weights and data usually have.
_LICENSES = frozenset(
    {
        *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc"),
        *("cc", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
        *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
        *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "openrail", "openrail++", "pddl", "odc-by", "odbl"),
        *("gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "mpl-2.0"),
        *("ecl-2.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "afl-3.0", "artistic-2.0", "bsl-1.0"),
        *("ms-pl", "unlicense", "wtfpl", "zlib", "unknown", "other"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A repository of the Hub that holds a run, and what its owner states of it.

    Attributes:
        repository: `OWNER/NAME`.
        license: Licence of the model; None for that of the pretrained weights.
        datasets: Ids of the datasets on the Hub that it was trained on.
    """

    repository: str
    license: str | None = None
    datasets: tuple[str, ...] = ()


def write_card(
    folder: Path,
    info: ModelInfo,
    backbone: Backbone,
    *,
    val_images: int,
    classes: Mapping[str, Sequence[ClassFigures]] | None = None,
) -> None:
    """Write the model card.

    Raises:
        RunError: If it can't be written.
    """
    text = card_text(info, backbone, folder, val_images=val_images, classes=classes)
    write_file(folder / CARD, text.encode())


def card_text(
    info: ModelInfo,
    backbone: Backbone,
    place: Path | Published,
    *,
    val_images: int,
    classes: Mapping[str, Sequence[ClassFigures]] | None = None,
) -> str:
    """Return the model card, of a run folder or of the repository in which the run is published."""
    names = ", ".join(map(markdown, info.class_names))
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
    config = files_of(backbone, info)[CONFIG]
    return f"""{_metadata(info, backbone, config, place)}# {markdown(backbone.name)}, fine-tuned

{kind} image classifier for {len(info.class_names)} classes: {names}.
{random_warning}{warnings}
| | |
|---|---|
{measured}
{_calibration(info, val_images)}| backbone | {backbone.name} |
{_options(info)}| started from | {markdown(info.weights_source)} |
{_teacher(info)}{_licence(info, backbone)}| input | {colours}, {height} x {width} pixels |
{_transfer(info)}| made with | {", ".join(f"{k} {v}" for k, v in info.versions.items())} |
{_custom(info)}{"".join(f"| on its way | {markdown(line)} |{chr(10)}" for line in info.history)}
{chosen}
{_figures(info)}
{_by_class(classes or {})}
{_intended(info)}

{_use(config, backbone, place)}
{_images(info)}"""


def _custom(info: ModelInfo) -> str:
    """Return rows of a table with the code that took part beside zoo's."""
    rows = [f"| {what} | {markdown(name)} |\n" for what, name in info.custom.items()]
    return "".join(rows)


def _calibration(info: ModelInfo, val_images: int) -> str:
    if info.calibrated:
        what = f"of the logits divided by {info.temperature:g}, "
        what += f"fitted on {HELD_OUT[info.calibrated]}"
    elif not val_images:
        what = "not calibrated: no held-out images"
    else:
        # The card of a run that is not complete.
        return ""
    row = f"| probabilities | {what} |\n"
    return f"{row}| labels | {thresholds_text(info)} |\n" if info.thresholds else row


def thresholds_text(info: ModelInfo) -> str:
    """Describe a run's thresholds and what they mean for its figures, without a full stop."""
    text = describe_thresholds(info)
    if info.calibrated == "val":
        text += ". F1 and exact matches on val are therefore a little too high"
    if "folds" in info.figures:
        text += f". Figures of the runs on folds are for a threshold of {THRESHOLD:g}"
    return text


def _images(info: ModelInfo) -> str:
    """Return the section with the number of images; empty for a run of an earlier version."""
    if not info.counts:
        return ""
    none = (0,) * len(info.class_names)
    # A run that is trained on all images has no val images.
    counts = {"train": none, "val": none, **info.counts}
    columns: dict[str, Sequence[float]] = {**counts}
    if info.thresholds:
        columns["threshold"] = info.thresholds
    rows = "\n".join(
        f"| {markdown(name)} | {' | '.join(map(str, of_class))} |"
        for name, *of_class in zip(info.class_names, *columns.values(), strict=True)
    )
    missing = unmeasured(info.class_names, counts["val"], "val")
    note = "" if missing is None else f"\n{markdown(missing[0].upper() + missing[1:])}.\n"
    return f"""
## Images

| class | {" | ".join(columns)} |
|---|{"---|" * len(columns)}
{rows}
{note}"""


def _by_class(classes: Mapping[str, Sequence[ClassFigures]]) -> str:
    """Return the section with the figures of each class on test or, without it, on val."""
    split = next((split for split in ("test", "val") if classes.get(split)), None)
    if split is None:
        return ""
    shown = list(classes[split])
    note = ""
    if len(shown) > MOST_CLASSES:
        hardest = sorted(shown, key=lambda each: 1 if each.f1 is None else each.f1.value)
        shown = hardest[:MOST_CLASSES]
        note = f" These are the {MOST_CLASSES} with the lowest F1, of {len(classes[split])}."
    rows = "\n".join(
        f"| {markdown(each.name)} | {each.images} | {_cell(each.recall)} | {_cell(each.precision)} "
        f"| {_cell(each.f1)} |"
        for each in shown
    )
    return f"""
## Figures by class

On the {split} images, with 95% confidence intervals.{note}

| class | images | recall | precision | F1 |
|---|---|---|---|---|
{rows}
"""


def _cell(figure: Figure | None) -> str:
    return "not measured" if figure is None else f"{figure.value:.2%} ({interval(figure)})"


def _intended(info: ModelInfo) -> str:
    """Return the sections on intended use and limits."""
    answer = (
        "one of its classes, also for an image that shows none of them"
        if TASKS[info.task].exclusive
        else "any number of its classes, also none"
    )
    familiar = (
        " Images unlike the training images are flagged as unfamiliar by `zoo predict`; other "
        "libraries don't flag them."
        if info.familiarity is not None
        else ""
    )
    shown = (
        " Figures without a test split are of the images by which the model was chosen."
        if info.figures and "test" not in info.figures
        else ""
    )
    return f"""## Intended use

Classification of images like those that it was trained on: the same kind of subject, camera and
conditions. Measure it on your own labelled images (`zoo evaluate`) before relying on it.

## Limits

- It answers with {answer}.{familiar}
- The figures hold for images from the same source as those measured.{shown}
- Rare classes are measured on few images; their intervals are wide.
- What it has learnt from the pretraining data, including its biases, may still have an effect.
- It has not been examined for use in decisions about people."""


def _use(config: Mapping[str, Any], backbone: Backbone, place: Path | Published) -> str:
    """Return the section with the commands and libraries that load the run."""
    published = isinstance(place, Published)
    if isinstance(place, Published):
        folder = f"runs/{place.repository.partition('/')[2]}"
        get = f"    zoo pull {place.repository}\n"
        remote, load = place.repository, f"hf-hub:{place.repository}"
    else:
        folder, get = str(place), ""
        remote, load = folder, f"local-dir:{folder}"
    use = shlex.quote(printable(folder))
    library = library_of(config)
    code = []
    if library == "timm":
        code.append(f"import timm\nmodel = timm.create_model({load!r}, pretrained=True)")
    if library in ("timm", "transformers"):
        code.append(
            "from transformers import pipeline\n"
            f'classify = pipeline("image-classification", {remote!r})'
        )
    if library == "torchvision":
        name = backbone.name.partition("/")[2].partition(".")[0]
        source = (
            "from huggingface_hub import hf_hub_download\n"
            f'file = hf_hub_download({remote!r}, "{MODEL}")'
            if published
            else f"file = {str(Path(folder) / MODEL)!r}"
        )
        code.append(
            "import safetensors.torch, torchvision\n"
            f"{source}\n"
            f"model = torchvision.models.{name}(num_classes={config['num_classes']})\n"
            "model.load_state_dict(safetensors.torch.load_file(file))"
        )
    others = "".join("\n" + textwrap.indent(each, "    ") + "\n" for each in code)
    if others:
        others = f"""
Without zoo, with the networks' own library (its probabilities are not calibrated):
{others}"""
    return f"""## Use

{get}    zoo predict {use} IMAGE_OR_DIR...
    zoo evaluate {use} --data DIR

    import zoo
    run = zoo.load({folder!r})
    run.predict("photo.jpg")

`{MODEL}` alone is enough for these. `recipe.toml` holds all settings.
{others}
With ONNX Runtime, if the format has all operators of the network; the file is compared with the
run before it is kept, and the script beside it needs no zoo:

    zoo export {use} --to onnx
    python {shlex.quote(printable(f"{folder}.onnx.predict.py"))} IMAGE...
"""


def library_of(config: Mapping[str, Any]) -> str | None:
    """Return the library that loads a run, by its config.json; None if only zoo does."""
    named = config.get("library_name")
    if isinstance(named, str):
        return named
    return "transformers" if "model_type" in config else None


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
                *(figure_text(name, info.figures[split].metrics.get(name)) for split in splits),
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


def _metadata(
    info: ModelInfo, backbone: Backbone, config: Mapping[str, Any], place: Path | Published
) -> str:
    """Return the metadata of the Hugging Face Hub, in YAML, of which JSON is a subset.

    See https://huggingface.co/docs/hub/model-cards. There is no `widget`: it needs images that may
    be published.
    """
    library, base = library_of(config), _base_model(info, backbone)
    published = place if isinstance(place, Published) else Published(repository="")
    values: dict[str, Any] = {
        **_license_keys(published.license or license_of_weights(info, backbone)),
        "library_name": library or "zoo",
        "pipeline_tag": "image-classification",
        "base_model": base,
        "base_model_relation": base and "finetune",
        "datasets": list(published.datasets),
        "tags": [
            "image-classification",
            "zoo-finetune",
            info.task,
            *([library] if library else []),
        ],
        "metrics": list(dict.fromkeys(m for f in info.figures.values() for m in f.metrics)),
        "model-index": _model_index(info),
    }
    lines = [
        f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value
    ]
    return "\n".join(["---", *lines, "---", "", ""])


def license_of_weights(info: ModelInfo, backbone: Backbone) -> str | None:
    """Return the licence of the pretrained weights that a run started from; None if not known."""
    if backbone.weights is None or info.weights_source != describe(backbone.weights):
        return None
    return backbone.weights.license


def _license_keys(stated: str | None) -> dict[str, str]:
    if stated is None:
        return {}
    name = printable(stated.strip()).lower()
    if name in _LICENSES:
        return {"license": name}
    # The Hub takes other names than those of its list only so.
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", name).strip("-")}


def _base_model(info: ModelInfo, backbone: Backbone) -> str | None:
    """Return the Hub's id of the pretrained network, if that is where it is from."""
    weights = backbone.weights
    if weights is None or weights.hub is None or info.weights_source != describe(weights):
        return None
    return weights.hub.partition("@")[0]


def _model_index(info: ModelInfo) -> list[dict[str, Any]]:
    """Return the figures as a model index, with their intervals; empty before there are any."""
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"type": "custom", "name": f"{split} images", "split": split},
            "metrics": [
                {
                    "type": name,
                    "name": metric_label(name),
                    "value": round(figure.value, 6),
                    "args": {
                        "confidence_level": LEVEL,
                        "low": round(figure.low, 6),
                        "high": round(figure.high, 6),
                    },
                }
                for name, figure in found.metrics.items()
            ],
        }
        for split, found in info.figures.items()
    ]
    return [{"name": printable(info.backbone), "results": results}] if results else []


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


def _teacher(info: ModelInfo) -> str:
    if not info.teacher:
        return ""
    parts = [info.teacher.get(name, "") for name in ("backbone", "score")]
    about = markdown(", ".join(filter(None, parts)))
    return f"| distilled from | {about}, sha256 {markdown(info.teacher.get('sha256', ''))} |\n"


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
    stated = license_of_weights(info, backbone) or "not stated"
    return f"| licence of those weights | {markdown(stated)} |\n"
