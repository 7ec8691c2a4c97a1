"""Search over ranges of recipe fields: trials are runs, compared on val after the same epochs.

Each trial is an ordinary run with the schedule of its full length. At the rungs of successive
halving (`zoo.pipeline.study`) it is stopped if it is worse than most of those before it. Test
images are not read.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shlex
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from zoo import plugins
from zoo.data.sources import located
from zoo.errors import (
    DataError,
    OptionError,
    RecipeError,
    RunError,
    SizeError,
    Stopped,
    TrainingError,
    WeightsError,
)
from zoo.events import EpochEnd, Listener, Note, TrialEnd, TrialStart
from zoo.io.files import expand
from zoo.io.text import count, listed
from zoo.machine.processes import rank_and_count
from zoo.pipeline.finetune import start_or_resume, warn
from zoo.pipeline.plot import plot_search
from zoo.pipeline.shared_folder import find_run
from zoo.pipeline.study import Study
from zoo.planning import Prepared, prepare
from zoo.planning.auto import AUTO
from zoo.planning.decisions import most_images, probe_seconds
from zoo.recipe import Recipe, change
from zoo.recipe.fields import seconds_of
from zoo.recipe.search import Choices, Range, default_ranges, make_search
from zoo.runs.checkpoint_file import ORPHANS, holding
from zoo.runs.folder import choose_folder
from zoo.runs.read import Run
from zoo.runs.search import PLOT, TRIALS, Search, Trial, has_search, read_search, write_search
from zoo.tasks import Metrics
from zoo.training.budget import affordable_epochs

#: Errors that a set of values may cause; any other ends the search.
_FAILURES = (RecipeError, SizeError, OptionError, TrainingError, WeightsError)

#: Number of trials in succession that may fail.
_MOST_FAILURES = 5

#: Settings of a search that may change when it is resumed.
_MAY_CHANGE = frozenset({"time", "workers", "cache_size", "checkpoint_every"})


def tune(
    data: str | Path | None = None,
    *,
    ranges: Mapping[str, object] | None = None,
    out: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    trials: int | None = None,
    resume: bool | Literal["auto"] = False,
    listen: Listener | None = None,
    **fields: Any,
) -> Search:
    """Search for the best settings within a time, by successive halving.

        search = zoo.tune("photos", time="1h", ranges={"lr": "1e-5..1e-3", "mixup": [0, 0.2]})
        zoo.finetune(recipe=search.path / "best.toml")

    Trials are compared by the deciding metric on val. Test images are not used. The first trial has
    the values that `finetune` would use, where they are in the ranges. Needs Optuna
    (`pip install 'zoo-finetune[tune]'`).

    Args:
        data: As in `finetune`.
        ranges: What each searched field is searched among: `"LOW..HIGH"`, with `:log` or `:linear`
            for another scale than the field's own, or a list of values. Default: those of the
            recipe file (its table `[search]`), or else fields of fine-tuning that are not set.
        out: Folder of the search. Default: a new one below `runs/`.
        recipe: As in `finetune`; its values are fixed.
        trials: Maximum number of trials; needed if there is no `time`.
        resume: Go on with the search of `out`, of which everything but `time` and `trials` may be
            left out, and must not differ; `"auto"`: start it if there is none.
        listen: Receives the events of each trial's run, and `TrialStart` and `TrialEnd`. By
            default, warnings are passed to `warnings.warn`. A warning that is repeated is passed
            once.
        **fields: Fields of `zoo.Recipe`, which are fixed. `time` limits the whole search.

    Returns:
        The search, with all trials and the best one.

    Raises:
        ZooError: An argument, a range or the data are invalid, the time is too short for a trial,
            or `out` is of another search, which is checked before anything is written; several
            trials in succession failed; or the time was up before a trial was complete.
        zoo.Stopped: As in `finetune`. The search can be resumed.
    """
    started = time.perf_counter()
    if importlib.util.find_spec("optuna") is None:
        raise RecipeError(
            "a search needs optuna, which is not installed",
            hint="pip install 'zoo-finetune[tune]'",
        )
    if rank_and_count()[1] > 1:
        raise RecipeError("a search runs in a single process", hint="start it without a launcher")
    if trials is not None and trials < 1:
        raise RecipeError(f"trials = {trials}: give 1 or more")
    if resume and out is None:
        raise RecipeError("there is no search to resume", hint="give its folder as `out`")
    listen = _once(listen or warn)
    if data is not None:
        fields["data"] = data
    made, parsed = make_search(recipe, ranges, **fields)
    made, parsed = _spelled_out(made), _named(parsed)
    folder = None if out is None else expand(out)
    if folder is not None and (resume is True or (resume and has_search(folder))):
        read_search(folder)  # Else a folder without a search would be locked, with a file in it.
        with holding(folder, patience=ORPHANS):
            search = _resumed(read_search(folder), made, parsed, trials)
            return _go_on(search, started, listen)
    search = _planned(made, parsed, folder, trials=trials, given=fields, listen=listen)
    with holding(search.path):
        if has_search(search.path):
            raise RunError(f"another search has taken {search.path}", hint="give another `out`")
        write_search(search)
        return _go_on(search, started, listen)


def _spelled_out(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths and the full name of the backbone."""
    changes: dict[str, Any] = {
        name: located(place)
        for name in ("data", "val", "test", "unlabelled")
        if (place := getattr(recipe, name)) is not None
    }
    if recipe.teacher is not None:
        changes["teacher"] = os.path.realpath(expand(recipe.teacher))
    if recipe.weights not in ("pretrained", "none"):
        changes["weights"] = os.path.realpath(expand(recipe.weights))
    if "backbone" in recipe.model_fields_set and recipe.backbone != AUTO:
        changes["backbone"] = plugins.get(recipe.backbone).name
    return change(recipe, **changes)


def _named(ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return the ranges with the full names of backbones.

    Raises:
        UnknownBackboneError: There is no such backbone.
    """
    found = dict(ranges)
    if isinstance(names := found.get("backbone"), Choices):
        full = tuple(plugins.get(str(name)).name for name in names.values)
        found["backbone"] = Choices(values=full)
    return found


def _resumed(
    search: Search, made: Recipe, ranges: Mapping[str, Range], trials: int | None
) -> Search:
    """Return the recorded search with the limits that are given now.

    Raises:
        RunError: Something that is given now differs.
    """
    different = [
        name
        for name in sorted(made.model_fields_set - _MAY_CHANGE)
        if getattr(made, name) != getattr(search.recipe, name)
        and (name, made.backbone) != ("backbone", AUTO)
    ]
    if ranges and ranges != search.ranges:
        names = ranges.keys() | search.ranges.keys()
        differing = [name for name in names if ranges.get(name) != search.ranges.get(name)]
        different += [f"range of {name}" for name in sorted(differing)]
    if different:
        raise RunError(
            f"{search.path} is of another search, with another {listed(different)}",
            hint="give another `out`, or leave these out to go on with that search",
        )
    changes = {name: getattr(made, name) for name in _MAY_CHANGE & made.model_fields_set}
    return replace(
        search,
        recipe=change(search.recipe, **changes),
        most_trials=search.most_trials if trials is None else trials,
    )


def _planned(
    made: Recipe,
    ranges: Mapping[str, Range],
    out: Path | None,
    *,
    trials: int | None,
    given: Mapping[str, object],
    listen: Listener,
) -> Search:
    """Return a new search, after preparing the run that it starts from; nothing is written.

    Raises:
        ZooError: As in `tune`.
    """
    if made.needs_folds:
        raise RecipeError(
            "trials are compared on one val split, not on `folds`", hint="leave it out"
        )
    if made.time is None and trials is None:
        raise RecipeError("a search has no end", hint="give `time`, or a number of `trials`")
    if out is not None and has_search(out):
        raise RunError(
            f"`out={out}` already contains a search",
            hint=f"to resume it: zoo tune --resume {shlex.quote(str(out))}",
        )
    backbone = "zoo/auto" if made.backbone == AUTO else plugins.get(made.backbone).name
    folder = choose_folder(out, change(made, backbone=backbone), prefix="tune-")
    prepared = prepare(
        change(made, test=None),
        given=given,
        out=folder / TRIALS / "0",
        with_test=False,
        listen=listen,
    )
    plan = prepared.plan
    if not plan.val_images:
        raise DataError("there are no val images to compare trials on", hint="hold some out")
    _check_time(made, prepared)
    resolved = plan.recipe
    if not ranges:
        ranges = default_ranges(made, resolved, channels=plan.preprocess.channels)
    if made.backbone == AUTO:
        made = change(made, backbone=resolved.backbone)
    first = {name: getattr(resolved, name) for name in ranges}
    return Search(
        path=folder,
        recipe=made,
        ranges=ranges,
        metric=resolved.metric,
        first={name: value for name, value in first.items() if value in ranges[name]},
        most_epochs=resolved.epochs,
        most_trials=trials,
    )


def _check_time(made: Recipe, prepared: Prepared) -> None:
    """Check that a trial fits into the time, by the speed that was measured.

    Raises:
        RecipeError: It does not.
    """
    speed, splits, resolved = prepared.speed, prepared.splits, prepared.plan.recipe
    if made.time is None or speed is None:
        return
    probe = probe_seconds(resolved, speed, len(splits.train), len(splits.val))
    images = (most_images(resolved, len(splits.train)), len(splits.val))
    left = seconds_of(made.time) - (time.perf_counter() - prepared.started) - probe
    epochs = 0 if made.train == "probe" else resolved.epochs
    # An estimate that is negative allows none.
    if left < 0 or affordable_epochs(left, speed, *images, most=epochs) < epochs:
        total = probe + epochs * speed.epoch(*images)
        what = count(epochs, "epoch") if epochs else "a probe"
        raise RecipeError(
            f"`time={made.time}` is too short for one trial: {what} will take about {total:.0f} s",
            hint=f"give more, or fewer `{_length(made)}`",
        )


def _length(made: Recipe) -> str:
    """Return the field that gives the length of a trial."""
    return next((name for name in ("steps", "samples") if getattr(made, name)), "epochs")


def _go_on(search: Search, started: float, listen: Listener) -> Search:
    """Run trials until the limits are reached, and write what is made of them."""
    session = _Session(search, started, listen)
    try:
        ended = session.run()
    except KeyboardInterrupt as stopped:
        signum = stopped.signum if isinstance(stopped, Stopped) else signal.SIGINT
        raise Stopped(signum, session.outcome()) from None
    search = session.search
    if search.best is None:
        raise TrainingError(
            f"{ended}, and no trial is complete",
            hint=f"to go on: zoo tune --resume {shlex.quote(str(search.path))} with more `time`",
        )
    plot_search(search, search.path / PLOT)
    listen(Note(text=ended))
    return search


class _Ended(Exception):
    """Ends the run of a trial from its listener.

    Attributes:
        state: State of the trial.
    """

    def __init__(self, state: Literal["pruned", "running"]) -> None:
        super().__init__(state)
        self.state = state


class _Session:
    """A search from its start, or from where it was interrupted.

    Attributes:
        search: The search so far.
    """

    def __init__(self, search: Search, started: float, listen: Listener) -> None:
        self.search = search
        self._listen = listen
        self._started, self._before = started, search.seconds
        self._epochs = search.most_epochs or search.recipe.epochs
        self._study = Study(search, self._epochs)

    def run(self) -> str:
        """Run trials until a limit is reached; return which, in a sentence.

        Raises:
            ZooError, Stopped: As in `tune`.
        """
        self._tidy()
        trial = next((t for t in self.search.trials if t.state == "running"), None)
        if trial is not None and self._study.begin(trial):
            # Killed between the record of its last epoch and its end.
            self._end(replace(trial, state="pruned"))
            trial = None
        failures = 0
        while (why := self._ends(begun=trial is not None)) is None:
            if trial is None:
                number = len(self.search.trials)
                params = self._study.suggest(number)
                if params is None:
                    return "all combinations of values have been tried"
                trial = Trial(number=number, params=params)
                self._keep(trial)
            trial = self._run(trial)
            if trial.state == "running":
                return self._time_is_up()
            failures = failures + 1 if trial.state == "failed" else 0
            if failures == _MOST_FAILURES:
                raise TrainingError(
                    f"the last {failures} trials failed: {trial.reason}",
                    hint="search other ranges",
                )
            trial = None
        return why

    def outcome(self) -> str:
        """Describe what is done, and how to resume."""
        complete = sum(trial.state == "complete" for trial in self.search.trials)
        return (
            f"{count(len(self.search.trials), 'trial')} so far, {complete} complete\n"
            f"resume with: zoo tune --resume {shlex.quote(str(self.search.path))}"
        )

    def _ends(self, *, begun: bool) -> str | None:
        """Return why no trial is to be started, or, if one has begun, resumed; None if one is."""
        search = self.search
        made, most = len(search.trials), search.most_trials
        if most is not None and made >= most and not begun:
            return f"{count(made, 'trial')} have been made"
        complete = [trial.seconds for trial in search.trials if trial.state == "complete"]
        # One that could not be complete could not become the best.
        needed = 0.0 if begun or not complete else sum(complete) / len(complete)
        return self._time_is_up() if self._left() <= needed else None

    def _time_is_up(self) -> str:
        return f"the time of {self.search.recipe.time} is up"

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._started

    def _left(self) -> float:
        """Return the seconds that are left."""
        limit = self.search.recipe.time
        return math.inf if limit is None else seconds_of(limit) - self._seconds()

    def _keep(self, trial: Trial) -> None:
        """Record a trial as it is."""
        self.search = replace(self.search.with_trial(trial), seconds=self._seconds())
        write_search(self.search)

    def _run(self, trial: Trial) -> Trial:
        """Start or resume the run of a trial; return the trial as it ended."""
        number, before, started = trial.number, trial.seconds, time.perf_counter()
        self._listen(TrialStart(number=number, params=trial.params))

        def as_recorded() -> Trial:
            seconds = before + time.perf_counter() - started
            return replace(self.search.trials[number], seconds=seconds)

        def follow(event: object) -> None:
            self._listen(event)
            if isinstance(event, EpochEnd):
                self._after_epoch(as_recorded(), event)

        try:
            run = self._run_of(trial, follow)
        except _Ended as ended:
            return self._end(replace(as_recorded(), state=ended.state))
        except _FAILURES as error:
            return self._end(replace(as_recorded(), state="failed", reason=str(error)))
        val = run.info.val_metrics
        return self._end(
            replace(
                as_recorded(),
                state="complete",
                value=_metric(self.search.metric, val),
                loss=val["loss"],
                epoch=run.info.epoch,
            )
        )

    def _run_of(self, trial: Trial, follow: Listener) -> Run:
        """Start, resume or load the run of a trial."""
        folder, recipe = self.search.folder_of(trial), self.search.recipe_of(trial)
        checkpoint = find_run(folder, allow_new=True)
        if checkpoint is not None:
            # It may have been killed between its checkpoint and the record of the epoch.
            for row in checkpoint.about["rows"]:
                if row["epoch"] > len(trial.values):
                    follow(EpochEnd(**row))
        return start_or_resume(folder, recipe, follow, report=False, with_test=False)

    def _after_epoch(self, trial: Trial, end: EpochEnd) -> None:
        """Record an epoch of a trial.

        Raises:
            _Ended: The trial is to be stopped.
        """
        # Epochs are repeated if training diverges, and starts again; epoch 0 is the probe.
        if end.epoch <= len(trial.values):
            return
        val = {
            name.removeprefix("val_"): value
            for name, value in end.metrics.items()
            if name.startswith("val_")
        }
        value = _metric(self.search.metric, val)
        values, losses = (*trial.values, value), (*trial.losses, val["loss"])
        self._keep(replace(trial, values=values, losses=losses))
        if self._study.report(end.epoch, value, val["loss"]):
            raise _Ended("pruned")
        if end.epoch < self._epochs and self._left() < end.seconds:
            raise _Ended("running")

    def _end(self, trial: Trial) -> Trial:
        """Record the end of a trial, of which only the best keeps its run folder."""
        self._keep(trial)
        if trial.state != "running":
            self._study.end(trial)
            self._tidy()
        best = self.search.best
        self._listen(
            TrialEnd(
                number=trial.number,
                params=trial.params,
                state=trial.state,
                value=trial.shown_value,
                epochs=len(trial.values),
                seconds=trial.seconds,
                best=best is not None and best.number == trial.number,
                reason=trial.reason,
            )
        )
        return trial

    def _tidy(self) -> None:
        """Remove the run folders of the finished trials, all but the best."""
        best = self.search.best
        for trial in self.search.trials:
            if trial.state != "running" and (best is None or trial.number != best.number):
                # One that can't be removed does no harm.
                shutil.rmtree(self.search.folder_of(trial), ignore_errors=True)


def _metric(name: str, val: Mapping[str, float]) -> float:
    """Return a metric by its name in the recipe, negated if lower is better."""
    return Metrics(images=1, values=val, error=0.0).value(name)


def _once(listen: Listener) -> Listener:
    """Return a listener that leaves out warnings that it has passed on before."""
    said = set()

    def listen_once(event: object) -> None:
        if isinstance(event, Note) and event.warning:
            if event.text in said:
                return
            said.add(event.text)
        listen(event)

    return listen_once
