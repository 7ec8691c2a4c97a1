"""Output during training: tables and a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self

from zoo.cli.progress import progress_bar
from zoo.cli.tables import (
    Column,
    label,
    least_width,
    number,
    plain_console,
    print_facts,
    print_table,
    text,
)
from zoo.cli.words import with_flags
from zoo.errors import Stopped
from zoo.events import EpochEnd, Measured, Note, RunEnd, StepEnd
from zoo.events import Progress as Done
from zoo.io.files import is_file
from zoo.io.text import count, printable
from zoo.models.group_plan import GroupPlan
from zoo.models.variant import options_text
from zoo.planning import Plan
from zoo.recipe import Recipe
from zoo.runs.figures import interval, wilson
from zoo.runs.transfer import Transfer, describe_transfer, why_not_measured
from zoo.runs.write import REPORT
from zoo.tasks import SINGLE_LABEL, TASKS, Task, metric_label

if TYPE_CHECKING:
    from zoo.runs.read import Run

#: Columns of the table of epochs and their minimum widths, because rows are printed one by one;
#: {} is the task's main metric.
_EPOCH_COLUMNS = {
    "epoch": 5,
    "train loss": 8,
    "train {}": 7,
    "val loss": 8,
    "val {}": 7,
    "lr backbone": 8,
    "lr head": 8,
    "seconds": 7,
    "data wait": 9,
}

_GROUP_COLUMNS = (
    text("group"),
    number("parameters"),
    number("learning rate"),
    number("weight decay"),
    number("not decayed"),
    text("trains"),
)

_SETTING_COLUMNS = (text("setting"), text("value"), text("from"))

#: Maximum number of rows for groups that differ only in their rates; with more, some are merged.
_MOST_ROWS = 8


class TrainingConsole:
    """A listener that prints events, as `zoo finetune` does; for `zoo.finetune(..., listen=...)`.

    On a terminal it shows a progress bar, which is removed at the end of the run, or of the context
    if it is used as a context manager. Elsewhere, as in a notebook, it prints plain lines.

    Args:
        verbose: Also print details.
        flags: Name settings as flags of the command line instead of arguments.
    """

    def __init__(self, *, verbose: bool = False, flags: bool = False) -> None:
        self._verbose = verbose
        self._worded: Callable[[str], str] = with_flags if flags else str
        self.out = plain_console()
        self.err = plain_console(stderr=True)
        self._started = time.perf_counter()
        self._epoch_started = 0.0
        self._images = 0
        self._epoch_columns: list[str] = []
        self._kind: Task = SINGLE_LABEL
        self._baseline = 0.0
        self._val_images = 0
        self._progress = progress_bar(self.out)
        self._task = self._progress.add_task("", total=None, visible=False, rate="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: object) -> None:
        """Print an event."""
        match event:
            case Note(text=text, warning=True):
                self.err.print(
                    printable(f"! {self._worded(text)}", lines=True), style="bold yellow"
                )
            case Measured(doubt=str(text)):
                self.err.print(printable(f"! {text}"), style="bold red")
            case Note(text=text, detail=detail):
                if self._verbose or not detail:
                    self.say(self._worded(text))
            case Plan():
                self._kind = TASKS[event.recipe.task]
                self._baseline, self._val_images = event.baseline.value, event.val_images
                self._epoch_columns = []
                self._plan(event)
            case Transfer():
                self._complete_plan(event)
            case Done():
                self._done(event)
            case StepEnd():
                self._step(event)
            case EpochEnd():
                self._epoch(event)
            case RunEnd():
                self._progress.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print a line; on a terminal, in a style of rich and wrapped between words."""
        plain = not self.out.is_terminal
        self.out.print(printable(text, lines=True), style=style, soft_wrap=plain)

    def result(self, run: Run) -> None:
        """Print the result of the run."""
        seconds = time.perf_counter() - self._started
        self._progress.stop()
        self.say("")
        if "val" not in run.info.figures:  # without a val split, or of an earlier version
            self.say(run.info.score_text, "bold")
        for split, found in run.info.figures.items():
            main = found.metrics[found.main]
            self.say(
                f"{split} {metric_label(found.main)} {main.value:.2%} ({interval(main)}), "
                f"{count(found.images, 'image')}; {found.baseline_what}: "
                f"{found.baseline.value:.2%}",
                "bold" if found.better_than_baseline else "bold red",
            )
        self.say(f"{run.info.stage}, {seconds:.0f} s in all")
        if run.info.recipe.weights == "none":
            print_facts(
                [("weights", "RANDOM WEIGHTS, not pretrained ones")],
                console=self.out,
                least=len("run folder"),
                style="bold yellow",
            )
        facts = [("run folder", str(run.path))]
        if is_file(run.path / REPORT):
            facts.append(("report", str(run.path / REPORT)))
        facts.append(("predict", f"zoo predict {shlex.quote(str(run.path))} IMAGE_OR_DIR..."))
        print_facts(facts, console=self.out, wrapped=False)

    def stopped(self, stopped: Stopped) -> None:
        """Print what was saved when a signal stopped the run."""
        self._progress.stop()
        self.err.print(f"! stopped by {signal.Signals(stopped.signum).name}", style="bold yellow")
        for line in str(stopped).splitlines():
            self.err.print(f"! {line}", style="bold yellow")

    def _plan(self, plan: Plan) -> None:
        recipe, (height, width) = plan.recipe, plan.preprocess.height_width
        facts = (
            ("backbone", recipe.backbone),
            *(
                [("options", options_text(recipe.backbone_options))]
                if recipe.backbone_options
                else []
            ),
            ("weights", plan.weights_source),
            ("data", recipe.data or "demo (scikit-learn's digits)"),
            *(
                (split, place)
                for split, place in (("val", recipe.val), ("test", recipe.test))
                if place
            ),
            ("classes", _classes(plan)),
            ("images", f"{plan.train_images} train, {plan.val_images} val"),
            ("input", f"{height} x {width}, {_augmentation(recipe)}"),
            ("training", _training(plan)),
            (
                ("best by", f"val {metric_label(recipe.metric)}")
                if plan.val_images
                else ("kept", "the last epoch, as there are no val images")
            ),
            ("transfer", _transfer(plan)),
            ("device", f"{plan.device}, {recipe.precision}"),
            *([("allocator", plan.allocator)] if self._verbose else []),
            ("run folder", str(plan.out)),
        )
        print_facts(facts, console=self.out)
        self.say("")
        print_table(_GROUP_COLUMNS, _groups(plan), console=self.out)
        self.say("")
        if self._verbose:
            print_table(_SETTING_COLUMNS, _settings(plan), console=self.out)
            self.say("")

    def _complete_plan(self, found: Transfer) -> None:
        """Print the row of the plan that is measured after the others."""
        print_facts(
            [("transfer", describe_transfer(found))],
            console=self.out,
            least=len("run folder"),
            style=None if found.helps else "bold yellow",
        )
        self.say("")

    def _done(self, event: Done) -> None:
        if self._progress.disable:
            return
        self._progress.start()
        self._progress.update(
            self._task,
            visible=event.done < event.total,
            description=event.what,
            completed=event.done,
            total=event.total,
            rate="",
        )

    def _step(self, event: StepEnd) -> None:
        if self._progress.disable:
            return
        now = time.perf_counter()
        if event.step == 1:
            self._epoch_started, self._images = now, 0
            self._progress.start()
        else:
            self._images += event.images
        elapsed = now - self._epoch_started
        self._progress.update(
            self._task,
            visible=True,
            description=f"epoch {event.epoch}/{event.epochs}",
            completed=(event.epoch - 1) * event.steps + event.step,
            total=event.total_steps,
            rate=f"{self._images / elapsed:.0f} images/s" if elapsed > 0 and self._images else "",
        )

    def _epoch(self, end: EpochEnd) -> None:
        first = not self._epoch_columns
        if first:
            self._choose_epoch_columns(end.metrics)
        metrics, main = end.metrics, self._kind.main
        score = metrics.get(f"val_{main}", 0.0)
        images = self._val_images
        # An approximation for mean average precision, whose interval takes a bootstrap.
        good = end.best and bool(images) and wilson(score * images, images).low > self._baseline
        cells = {
            "epoch": str(end.epoch or "probe"),
            "train loss": f"{metrics.get('train_loss', 0):.4f}",
            "train {}": f"{metrics.get(f'train_{main}', 0):.2%}",
            "val loss": f"{metrics.get('val_loss', 0):.4f}",
            "val {}": f"{score:.2%}",
            "lr backbone": f"{end.lr_backbone:.3g}",
            "lr head": f"{end.lr_head:.3g}",
            "seconds": f"{end.seconds:.1f}",
            "data wait": f"{end.data_seconds:.1f}",
        }
        columns = self._columns()
        row = [cells[name] for name in self._epoch_columns]
        note = ""
        if end.best and images:
            doubt = "best, not significant" if score > self._baseline else "no better than guessing"
            note = "best" if good else doubt
        if least_width([*columns, label()], [[*row, note]]) <= self.out.width:
            columns, row, note = [*columns, label()], [*row, note], ""
        style = "green" if good else None
        print_table(columns, [row], console=self.out, header=first, style=style)
        if note:
            self.say(f"{'':5}  {note}")

    def _columns(self) -> list[Column]:
        main = "acc" if self._kind.main == "accuracy" else metric_label(self._kind.main)
        return [
            number(name.format(main), least=_EPOCH_COLUMNS[name]) for name in self._epoch_columns
        ]

    def _choose_epoch_columns(self, metrics: Mapping[str, float]) -> None:
        """Hide the columns that do not fit a narrow terminal, and report it."""
        main = self._kind.main
        unused = [
            name
            for name in ("train loss", "train {}")
            if name.format(main).replace(" ", "_") not in metrics
        ]
        if not self._val_images:
            unused += [name for name in _EPOCH_COLUMNS if name.startswith("val")]
        self._epoch_columns = [name for name in _EPOCH_COLUMNS if name not in unused]
        left_out = []
        for name in ("data wait", "lr head", "lr backbone", "seconds"):
            if least_width([*self._columns(), label(least=len("best"))], []) <= self.out.width:
                break
            self._epoch_columns.remove(name)
            left_out.append(name)
        if left_out:
            self.say(f"columns hidden: {', '.join(left_out)} (all are in metrics.csv)")


def _classes(plan: Plan) -> str:
    counts = [
        f"{name} {train}+{val}"
        for name, train, val in zip(
            plan.class_names, plan.train_counts, plan.val_counts, strict=True
        )
    ]
    shown = counts if len(counts) <= 12 else [*counts[:10], f"and {len(counts) - 10} more"]
    return f"{len(counts)} (train+val images): {', '.join(shown)}"


def _augmentation(recipe: Recipe) -> str:
    """Describe the augmentation of training images, as far as it is known before the probe."""
    if recipe.augment == "none":
        return "no augmentation"
    augment = f"{recipe.augment} augmentation"
    if recipe.random_erasing:
        augment += f", random erasing {recipe.random_erasing:g}"
    if recipe.repeated_augmentation > 1:
        augment += f", {recipe.repeated_augmentation} views of each image in a batch"
    open_ones = [
        what
        for what, value in (("mirroring", recipe.hflip), ("small crops", recipe.crop_scale))
        if value is None and recipe.train != "finetune"
    ]
    if not open_ones:
        return augment
    return f"{augment}; {' and '.join(open_ones)} if labels survive them"


def _transfer(plan: Plan) -> str:
    """Describe whether pretrained features help, as far as it is known before the run starts."""
    if plan.transfer is not None:
        return describe_transfer(plan.transfer)
    reason = why_not_measured(plan.recipe)
    return "measured by a probe, before training" if reason is None else f"not measured: {reason}"


def _settings(plan: Plan) -> list[tuple[str, ...]]:
    """Return the rows of the table of all settings, each with the origin of its value."""
    return [(name, _setting(value), plan.config.origins[name]) for name, value in plan.recipe]


def _setting(value: object) -> str:
    if isinstance(value, Mapping):
        return options_text(value) or "-"
    return "-" if value is None else str(value)


def _groups(plan: Plan) -> list[tuple[str, ...]]:
    """Return the rows of the table of parameter groups."""
    cells: list[tuple[str, ...]] = []
    for rows in _shortened(plan.groups):
        first, last = rows[0], rows[-1]
        rates = (
            f"{first.lr:.3g}" if first.lr == last.lr else f"{first.lr:.3g} .. {last.lr:.3g}",
            f"{first.weight_decay:g}",
            f"{sum(row.without_decay for row in rows):,}",
        )
        names = (first.name.partition(" .. ")[0], last.name.rpartition(" .. ")[2])
        cells.append(
            (
                first.name if len(rows) == 1 else " .. ".join(names),
                f"{sum(row.parameters for row in rows):,}",
                *(("-", "-", "-") if first.frozen else rates),
                _trains(first),
            )
        )
    return cells


def _shortened(groups: tuple[GroupPlan, ...]) -> list[tuple[GroupPlan, ...]]:
    """Return the groups of each row: usually one; the middle ones of many similar groups."""
    shown: list[tuple[GroupPlan, ...]] = []
    for _, group in itertools.groupby(groups, key=lambda row: (row.part, row.trains_from)):
        rows = list(group)
        if len(rows) > _MOST_ROWS:
            half = _MOST_ROWS // 2
            middle = tuple(rows[half:-half])
            shown += [*((r,) for r in rows[:half]), middle, *((r,) for r in rows[-half:])]
        else:
            shown += [(row,) for row in rows]
    return shown


def _trains(group: GroupPlan) -> str:
    if group.trains_from is None:
        return "no (frozen)"
    return "yes" if group.trains_from == 1 else f"from epoch {group.trains_from}"


def _training(plan: Plan) -> str:
    recipe = plan.recipe
    each = f" in each of {plan.processes} processes" if plan.processes > 1 else ""
    batches = recipe.grad_accumulation
    added = f", gradients of {batches} added up" if batches > 1 else ""
    batch = recipe.batch_images(plan.processes)
    if added or each or recipe.global_batch is not None:
        kept = "" if recipe.global_batch is None else ", kept with other numbers of processes"
        images = recipe.step_images(plan.processes) * plan.processes
        each += f"{added}: {images} images a step{kept}"
    if recipe.train == "probe":
        views = f" and {recipe.probe_views} augmented views" if recipe.probe_views else ""
        return f"a probe on features of each image{views}, seed {recipe.seed}"
    divided = plan.micro_batch is not None and plan.micro_batch < batch
    parts = f" ({plan.micro_batch} at a time)" if divided else ""
    probe = "a probe, then " if recipe.train == "probe+finetune" else ""
    momentum = f" (momentum {recipe.momentum:g})" if recipe.optimizer == "sgd" else ""
    if recipe.optimizer_options:
        momentum += f" ({options_text(recipe.optimizer_options)})"
    fates = {group.frozen for group in plan.groups if group.part == "backbone"}
    trained = "trained where not frozen" if True in fates else "trained"
    learns = recipe.batch_norm == "train" and False in fates
    length, steps = count(recipe.epochs, "epoch"), recipe.length(plan.processes)
    if steps is not None:
        length = f"{count(steps, 'step')} in {length}"
    return (
        f"{probe}{length}, batch {batch}{parts}{each}, "
        f"{recipe.optimizer}{momentum}, {recipe.schedule} schedule, batch-norm statistics "
        f"{trained if learns else 'frozen'}, "
        f"seed {recipe.seed}"
    )
