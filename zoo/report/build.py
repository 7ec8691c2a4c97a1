"""Gather what the report of a run shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.data.issue import describe
from zoo.data.split import Splits
from zoo.events import Listener, Note
from zoo.features.copies import describe_copies
from zoo.io.files import is_file
from zoo.io.parse import parse_json
from zoo.io.text import clip, listed
from zoo.models.variant import options_text
from zoo.recipe import Recipe
from zoo.report import plots
from zoo.report.measured import Measured, measured
from zoo.report.page import MOST_CLASSES, Content, Gallery, Plot, Shot, render
from zoo.report.thumbnails import Thumbnail, thumbnails
from zoo.runs.card import thresholds_text
from zoo.runs.checkpoint_file import CHECKPOINT, LAST
from zoo.runs.figures import Figures, doubt, unmeasured
from zoo.runs.folder import FOLDS, FOLDS_PREDICTIONS
from zoo.runs.growth import Growth
from zoo.runs.read import Run, model_file
from zoo.runs.scores import Columns, joined, read_columns
from zoo.runs.shift import describe_shift
from zoo.runs.transfer import describe_transfer, why_not_measured
from zoo.runs.write import AFTER_PLAN, REPORT, ModelInfo, write_file
from zoo.weights.header import read_header

#: Images of a gallery.
MOST_SHOTS = 8

#: Multiply-accumulates of forward passes for maps of evidence that take about a second.
_CHEAP = 15e9

#: Multiply-accumulates of a backbone that does not state them.
_USUAL = 4e9

#: Largest part of the run's forward passes that maps of evidence may take, if they are not cheap.
_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class Suspected:
    """A label that is probably wrong."""

    name: str
    label: str
    suggested: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a report is about.

    Attributes:
        run: The run.
        columns: Columns of predictions.parquet, or of other predictions of the run.
        figures: Figures by split; those of other splits are computed.
        splits: The images, for thumbnails; None if they are not there.
        no_images: Why they are not there.
        source: Description of the data, if it is other data than the run's; else empty.
        suspected: Labels that are probably wrong, the most suspicious first; None: those that the
            run's probe found.
    """

    run: Run
    columns: Columns
    figures: Mapping[str, Figures] | None = None
    splits: Splits | None = None
    no_images: str = ""
    source: str = ""
    suspected: Sequence[Suspected] | None = None


def report_run(subject: Subject, listen: Listener) -> None:
    """Write the report of a run into its folder; a `Note` says so if that fails.

    The same run and images give the same file.
    """
    try:
        write_file(subject.run.path / REPORT, report_html(subject).encode())
    except Exception as error:  # noqa: BLE001 - a run must not be lost for its report
        text = f"the report was not written: {clip(str(error) or type(error).__name__)}"
        listen(Note(text=text, warning=True))


def report_html(subject: Subject) -> str:
    """Return a report as HTML.

    Raises:
        RunError: The predictions can't be understood.
    """
    run, info = subject.run, subject.run.info
    columns = subject.columns if subject.source else _with_folds(run, subject.columns)
    parts = measured(columns, info.class_names, run.task, subject.figures)
    about = _about(run)
    omissions: list[str] = []
    splits = subject.splits
    own = splits is not None and not subject.source
    if not parts:
        omissions.append("figures: the run has no held-out images to measure it on")
    if subject.no_images:
        omissions.append(subject.no_images)
    if parts and (left_out := len(info.class_names) - MOST_CLASSES) > 0:
        omissions.append(
            f"figures of the {left_out} classes with the highest F1: predictions.parquet has all "
            "that they are computed from"
        )
    growth, more_text = _growth(about, info)
    settings, defaults = _settings(info.recipe, about)
    if subject.suspected is None and not subject.source:
        subject = replace(subject, suspected=_suspected(about, run, omissions))
    training, training_text = _training(about, info.score_name)
    copies = [] if subject.source else _copied(about, run, omissions)
    data, data_text = _data(subject, copies)
    shift = info.shift if info.shift is not None and not subject.source else None
    return render(
        Content(
            title=run.path.resolve().name if run.path.is_dir() else run.path.resolve().stem,
            subtitle=_subtitle(run, splits if own else None),
            source=subject.source,
            model=read_header(model_file(run.path)).metadata.get("sha256", ""),
            parts=parts,
            warnings=[
                *(text for part in parts if (text := doubt(part.figures, part.split))),
                *([describe_shift(shift)] if shift is not None and shift.found else []),
            ],
            chosen=_chosen(parts, info, own=not subject.source),
            thresholds=dict(zip(info.class_names, info.thresholds, strict=False)),
            transfer=_transfer(info),
            counts=splits.counts(splits.train) if splits is not None and own else (),
            class_names=info.class_names,
            galleries=_galleries(subject, parts, omissions),
            training=training,
            training_text=training_text,
            trust=_trust(parts),
            more=[] if growth is None else [_growth_plot(growth)],
            more_text=more_text,
            data=data,
            data_text=data_text,
            settings=settings,
            defaults=defaults,
            environment=_environment(run, about),
            omissions=omissions,
        )
    )


def _about(run: Run) -> Mapping[str, Any]:
    """Return what the run's checkpoint says besides its tensors; empty without one."""
    try:
        text = read_header(run.path / CHECKPOINT / LAST).metadata["about"]
        about = parse_json(text)
    except (OSError, ValueError, KeyError):
        return {}
    return about if isinstance(about, dict) else {}


def _table(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a table of what an untrusted checkpoint says; empty if it has none."""
    found = about.get(name)
    return found if isinstance(found, dict) else {}


def _subtitle(run: Run, splits: Splits | None) -> str:
    info = run.info
    kind = "one label an image" if run.task.exclusive else "several labels an image"
    images = "" if splits is None else f"{len(splits.train):,} train images, "
    doubted = any(doubt(found) for found in info.figures.values())
    which = "the weights are those of" if info.score is None or doubted else "the best is"
    return (
        f"{run.backbone.name}, {images}{len(info.class_names)} classes "
        f"({listed(info.class_names, 6)}), {kind}; {which} {info.stage}"
    )


def _chosen(parts: Sequence[Measured], info: ModelInfo, *, own: bool) -> list[str]:
    """Return what the images of each split were used for, and so what their figures mean.

    `own` are images of the run's data.
    """
    labels = [f"Labels: {thresholds_text(info)}."] if parts and info.thresholds else []
    if not own:
        return labels
    texts = {
        FOLDS: "Each image of the folds is predicted by a run that has not learnt from it. The "
        "weights of this run have learnt from all of them, so their own figures are not measured.",
        "test": "Test images are used for no choice: their figures are what to expect on new "
        "images of the same kind.",
    }
    if info.recipe.train != "probe":
        texts["val"] = (
            "The best epoch is chosen on val images, so their figures are a little too high."
        )
    return [*(texts[part.split] for part in parts if part.split in texts), *labels]


def _transfer(info: ModelInfo) -> str:
    if info.transfer is not None:
        return describe_transfer(info.transfer)
    reason = why_not_measured(info.recipe)
    if reason is None:
        reason = "its features could not be compared with those of random weights"
    return f"Whether pretrained features help is not measured: {reason}."


def _copied(about: Mapping[str, Any], run: Run, omissions: list[str]) -> list[str]:
    """Describe edited copies in train and val, as the run's features have shown them.

    If the run has not looked for them, the reason is added to `omissions`.
    """
    found = _table(about, "training").get("copies")
    if not isinstance(found, list):
        if run.info.recipe.train == "finetune":
            reason = "the run has no probe"
        elif run.info.score is None:
            reason = "the run has no val images"
        else:
            reason = "the run has not looked for them, which would have taken long"
        omissions.append(
            f"crops and mirrored copies in train and val: {reason}; zoo data check finds them if "
            f"asked for labels"
        )
        return []
    pairs = [(str(pair[0]), str(pair[1])) for pair in found if isinstance(pair, list) and pair[1:]]
    return [describe_copies(pairs)] if pairs else []


def _data(subject: Subject, copies: list[str]) -> tuple[list[str], str]:
    """Return what was found wrong with the data, and what is said of it otherwise."""
    splits = subject.splits
    if splits is None:
        return [], "Not checked: the images are not at hand."
    found = [*describe(splits.issues, examples=20), *splits.findings, *copies]
    if subject.source:
        return found, (
            ("" if found else "Nothing was found wrong with the files. ")
            + "They were not compared with the images that the run has learnt from."
        )
    for split in ("val", "test"):
        held_out = getattr(splits, split)
        if text := unmeasured(splits.class_names, splits.counts(held_out), split):
            found.append(text)
    return found, "" if found else "Nothing was found wrong with the files and the splits."


def _with_folds(run: Run, columns: Columns) -> Columns:
    """Add the predictions of the runs on folds, if the run is the refit of these."""
    file = run.path / FOLDS_PREDICTIONS
    if not is_file(file):
        return columns
    of_folds = dict(read_columns(file))
    of_folds["split"] = [FOLDS] * len(of_folds["name"])
    return joined([{name: of_folds[name] for name in columns}, columns])


def _trust(parts: Sequence[Measured]) -> list[Plot]:
    if not parts:
        return []
    shown = parts[:2]
    what = "images" if parts[0].task.exclusive else "labels"
    return [
        Plot(
            title="Reliability",
            text=f"Of all {what} that are predicted with it, how many are right. On the dashed "
            "line, a probability of 80% means right in 80% of cases; below it, the classifier is "
            "too sure. Bars are 95% intervals.",
            svg=plots.reliability(shown),
        ),
        Plot(
            title="Accuracy against coverage",
            text="Accuracy if only the most confident part of the images is answered, and the rest "
            "is left to a person. Bands are 95% intervals.",
            svg=plots.coverage(shown),
        ),
    ]


def _training(about: Mapping[str, Any], main: str) -> tuple[list[Plot], str]:
    """Return the plots of the epochs, or why there are none."""
    rows = []
    found = about.get("rows")
    for row in found if isinstance(found, list) else ():
        try:
            values = {str(k): float(v) for k, v in row["metrics"].items()}
            rows.append({**values, "epoch": float(row["epoch"])})
        except (KeyError, TypeError, ValueError, AttributeError):
            return [], "Not shown: what the run says of its epochs can't be understood."
    if not rows:
        return [], "There are no epochs to plot: the run folder has none."
    if len(rows) == 1:
        only = "the probe was fitted" if rows[0]["epoch"] == 0 else "one epoch was recorded"
        return [], f"There are no epochs to plot: only {only}."
    text = "by epoch; epoch 0 is the probe" if rows[0]["epoch"] == 0 else "by epoch"
    there = {name for row in rows for name in row}
    val, none = " and val", ""
    if not {f"val_{main}", "val_loss"} & there:
        val, none = "", "; there are no val images"
    drawn = [
        Plot(title=title, text=f"On train (augmented images){val}, {text}{none}.", svg=svg)
        for title, svg in plots.learning_curves(rows, main).items()
    ]
    return drawn, "" if drawn else "There is nothing to plot: no value is finite."


def _suspected(about: Mapping[str, Any], run: Run, omissions: list[str]) -> list[Suspected] | None:
    """Return the suspected labels of the train images, as the run's probe found them.

    None if the run has not looked for them; the reason is added to `omissions`.
    """
    found = _table(about, "training").get("suspects")
    reason = ""
    if run.info.recipe.train == "finetune":
        reason = "the run has no probe"
    elif not run.task.exclusive:
        reason = "an image may have several labels"
    elif found is None:
        reason = "the run has not looked for them, which would have taken long"
    if reason:
        omissions.append(
            f"suspected labels: {reason}; zoo data check finds them if asked for labels"
        )
        return None
    suspected = []
    for each in found if isinstance(found, list) else []:
        match each:
            case [str(name), str(label), str(suggested), float(probability)]:
                if suggested in run.class_names:
                    suspected.append(
                        Suspected(
                            name=name, label=label, suggested=suggested, probability=probability
                        )
                    )
    return suspected


def _growth(about: Mapping[str, Any], info: ModelInfo) -> tuple[Growth | None, str]:
    found = _table(about, "training").get("growth")
    if found is None:
        if info.recipe.train == "finetune":
            return None, "Not measured: the run has no probe."
        if info.score is None:
            return None, "Not measured: the run has no val images to measure it on."
        return None, (
            "Not measured: there are too few images of each class to leave any out, or so many "
            "that it would take long."
        )
    try:
        growth = Growth.checked(found)
    except (TypeError, ValueError) as error:
        return None, f"Not shown: what the run says of it can't be understood ({error})."
    if growth.gain is None:
        return growth, "Too few images to extrapolate from."
    gain, low, high = (100 * value for value in growth.gain)
    return growth, (
        f"Twice as many train images: about {gain:+.1f} points of accuracy "
        f"(95% interval {low:+.1f} to {high:+.1f}), for images like these. Probes on features of "
        "the frozen backbone were fitted to parts of the train images and extrapolated; "
        "fine-tuning may gain more."
    )


def _growth_plot(growth: Growth) -> Plot:
    return Plot(
        title="Accuracy by number of images",
        text="Each dot is a probe on a random part of the train images, measured on val. The line "
        "is an inverse power law, dashed where it extrapolates.",
        svg=plots.growth_curve(growth),
    )


def _galleries(subject: Subject, parts: Sequence[Measured], omissions: list[str]) -> list[Gallery]:
    """Return the images that are shown; what can't be shown is added to `omissions`."""
    chosen = [(part, n) for part in parts for n in range(len(part.names))]
    sure = [float(part.confidence[n]) for part, n in chosen]
    wrong = [not part.correct[n] for part, n in chosen]
    everything = range(len(chosen))
    mistakes = sorted((k for k in everything if wrong[k]), key=lambda k: -sure[k])[:MOST_SHOTS]
    unsure = sorted((k for k in everything if k not in mistakes), key=lambda k: sure[k])
    unsure = unsure[:MOST_SHOTS]
    suspected = (subject.suspected or ())[:MOST_SHOTS]
    asked = [chosen[k] for k in (*mistakes, *unsure)]
    made = _thumbnails(subject, asked, suspected, omissions)
    names = subject.run.info.class_names
    shots = [
        _shot(part, n, names, each)
        for (part, n), each in zip(asked, made[: len(asked)], strict=True)
    ]
    total = sum(wrong)
    of_folds = ""
    if any(part.split == FOLDS for part in parts):
        of_folds = (
            " Predictions on folds are those of runs that have not learnt from the image; where "
            "the network looked is that of this run, which has."
        )
    found = []
    if chosen:
        found += [
            Gallery(
                id="confident-mistakes",
                title="Most confident mistakes",
                text=f"{total:,} of {len(chosen):,} images are predicted wrongly"
                + (
                    f"; these are the {len(mistakes)} with the highest probability."
                    if total
                    else "."
                )
                + (" Right: bright where the network found its evidence." if total else "")
                + (of_folds if total else ""),
                shots=shots[: len(mistakes)],
            ),
            Gallery(
                id="least-sure",
                title="Least sure",
                text="The lowest probabilities of a prediction, without those above."
                + ("" if total else of_folds),
                shots=shots[len(mistakes) :],
            ),
        ]
    if subject.suspected is not None:
        found.append(_suspects(suspected, made[len(asked) :], len(subject.suspected)))
    return found


def _thumbnails(
    subject: Subject,
    asked: Sequence[tuple[Measured, int]],
    suspected: Sequence[Suspected],
    omissions: list[str],
) -> list[Thumbnail]:
    """Return the thumbnails of predictions and of suspected labels.

    A map shows the evidence for the prediction, or for the suggested label.
    """
    if subject.splits is None:
        return [Thumbnail(missing="no image")] * (len(asked) + len(suspected))
    splits = subject.splits
    by_name = {each.name: each for each in (*splits.train, *splits.val, *splits.test)}
    classes = subject.run.info.class_names
    heat = _most_heat(subject)
    made = thumbnails(
        subject.run,
        [
            *(by_name.get(part.names[n]) for part, n in asked),
            *(by_name.get(each.name) for each in suspected),
        ],
        [
            *(int(part.shown[n]) for part, n in asked),
            *(classes.index(each.suggested) for each in suspected),
        ],
        [
            # Those of folds are of other runs.
            *(None if part.split == FOLDS else part.probabilities[n] for part, n in asked),
            *([None] * len(suspected)),
        ],
        heat=heat,
        temperature=subject.run.info.temperature,
    )
    if len(made) > heat:
        omissions.append(
            f"where the network looked in {len(made) - heat} images, because it would take "
            "long compared with the run"
        )
    if any(each.image and not each.heat for each in made[:heat]):
        omissions.append(
            "where the network looked: its stages give no map of the image's positions"
        )
    return made


def _suspects(suspected: Sequence[Suspected], made: Sequence[Thumbnail], total: int) -> Gallery:
    text = "By cross-validation of the probe, no label of the train images is suspected."
    if suspected:
        of = f"; these are {len(suspected)} of {total:,}" if total > len(suspected) else ""
        text = (
            "Labels of train images that are probably wrong, by cross-validation of the probe"
            f"{of}: look at them first. Right: bright where this run finds its evidence for the "
            "suggested label."
        )
    return Gallery(
        id="suspected-labels",
        title="Suspected labels",
        text=text,
        shots=[
            Shot(
                name=each.name,
                split="",
                label=each.label,
                predicted=each.suggested,
                confidence=each.probability,
                right=False,
                thumbnail=image,
            )
            for each, image in zip(suspected, made, strict=True)
        ],
    )


def _most_heat(subject: Subject) -> int:
    """Return for how many images maps of evidence take little time, compared with the run."""
    run, recipe = subject.run, subject.run.info.recipe
    passes = len(subject.columns["name"])
    if subject.splits is not None:
        # A step takes three times as long as a forward pass.
        trained = 0 if recipe.train == "probe" else 3 * recipe.epochs
        passes += len(subject.splits.train) * (trained + (recipe.train != "finetune"))
    height, width = run.info.preprocess.height_width
    own = run.backbone.preprocess.height_width
    scale = height * width / (own[0] * own[1])
    return max(round(_CHEAP / ((run.backbone.macs or _USUAL) * scale)), round(_SHARE * passes))


def _shot(part: Measured, n: int, names: Sequence[str], thumbnail: Thumbnail) -> Shot:
    def listed_of(row: Any) -> str:
        return " + ".join(names[int(k)] for k in np.flatnonzero(row)) or "nothing"

    return Shot(
        name=part.names[n],
        split=part.split,
        label=listed_of(part.truth[n]),
        predicted=listed_of(part.predicted[n]),
        confidence=float(part.confidence[n]),
        right=bool(part.correct[n]),
        thumbnail=thumbnail,
    )


def _settings(
    recipe: Recipe, about: Mapping[str, Any]
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Return (field, value, origin) of what is not a default, and (field, value) of the rest."""
    origins = _table(about, "origins")
    decided = _table(_table(about, "training"), "decided")
    changed, rest = [], []
    for name, value in recipe.model_dump(mode="json").items():
        text = _value(name, value)
        origin = str(origins.get(name, "default"))
        if name in decided:
            origin = f"decided: {AFTER_PLAN}"
        if origin == "default":
            rest.append((name, text))
        else:
            words = {"given": "given as an option", "recipe": "from the recipe"}
            changed.append((name, text, words.get(origin, origin.removeprefix("decided: "))))
    return changed, rest


def _value(name: str, value: Any) -> str:
    if name == "backbone_options":
        return options_text(value) or "none"
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _environment(run: Run, about: Mapping[str, Any]) -> list[tuple[str, str]]:
    info = run.info
    height, width = info.preprocess.height_width
    found = [
        ("backbone", run.backbone.name),
        ("initial weights", info.weights_source),
        ("input", f"{height} x {width} pixels"),
        ("device", info.recipe.device),
        *((name, version) for name, version in info.versions.items()),
    ]
    shown = {name for name, _ in found}
    recorded = _table(about, "environment")
    found += [(name, str(value)) for name, value in recorded.items() if name not in shown]
    found += [(f"custom {what}", name) for what, name in info.custom.items()]
    return found + [("changed on the way", line) for line in info.history]
