"""`zoo tune`: trials are compared on val alone, and a search that is killed goes on as it would."""

import csv
import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import zoo
from tests.conftest import IN_TWO, QUICK, make_photos, zoo_
from tests.pipeline.crash import Crash, crash_at
from tests.pipeline.test_time import with_speed
from zoo.errors import DataError, RecipeError, RunError, TrainingError
from zoo.events import EpochEnd, Measured, Progress, StepEnd, TrialEnd, TrialStart
from zoo.pipeline.study import Study, rungs
from zoo.recipe import Recipe, make_recipe
from zoo.recipe.search import parse_range
from zoo.runs.search import Search, Trial, read_search

FIELDS = {**QUICK, "epochs": 2, "warmup_epochs": 0.0}
RANGES = {"lr": "1e-5..1e-1", "mixup": "0,0.2"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Train and val images, and test images that can't be read."""
    root = tmp_path_factory.mktemp("tune") / "colours"
    make_photos(root / "train", 6)
    make_photos(root / "val", 3, first_seed=500)
    make_photos(root / "test", 2, first_seed=900)
    for file in (root / "test").rglob("*.png"):
        file.write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def heard(data, tmp_path_factory):
    """(the search, its events). Not to be changed."""
    events = []
    search = zoo.tune(
        data,
        out=tmp_path_factory.mktemp("search") / "search",
        ranges=RANGES,
        trials=4,
        listen=events.append,
        **FIELDS,
    )
    return search, events


def trials_of(search):
    """The trials, but for how long they took."""
    return [dataclasses.replace(trial, seconds=0.0) for trial in search.trials]


def test_rungs_are_after_a_ninth_and_a_third_of_the_epochs():
    assert {n: rungs(n) for n in (1, 2, 3, 6, 9, 30)} == {
        1: (),
        2: (1,),
        3: (1,),
        6: (1, 3),
        9: (1, 3),
        30: (4, 12),
    }


@pytest.mark.medium
def test_rungs_are_those_of_the_epochs_that_steps_give(data, monkeypatch):
    """18 train images in steps of 8 are 3 steps an epoch."""
    with_speed(monkeypatch, train=1e-6, forward=1e-6)
    fields = {name: value for name, value in FIELDS.items() if name != "epochs"}
    search = zoo.tune(
        data, out="search", ranges={"mixup": [0, 0.2]}, time="1h", trials=1, steps=7, **fields
    )
    assert [len(trial.values) for trial in search.trials] == [3]
    found = read_search(Path("search"))
    assert (found.most_epochs, found.recipe.steps, found.recipe.time) == (3, 7, "1h")
    assert make_recipe("search/best.toml").steps == 7


@pytest.mark.parametrize(("steps", "fits"), [(1, True), (9, False)])
def test_the_time_of_a_trial_is_that_of_its_steps(data, monkeypatch, steps, fits):
    with_speed(monkeypatch, train=1.0, forward=1e-6)
    monkeypatch.setattr("zoo.pipeline.tune._go_on", lambda search, *rest: search)
    fields = {name: value for name, value in FIELDS.items() if name != "epochs"}
    given = {**fields, "steps": steps, "time": "30s", "train": "finetune"}
    if fits:
        assert zoo.tune(data, out="search", ranges=RANGES, **given).most_epochs == 1
        return
    with pytest.raises(RecipeError, match="steps"):
        zoo.tune(data, out="search", ranges=RANGES, **given)


def searched(count, *, again):
    """The trials of a search in which `mixup` is good and `lr` is best at 1e-4."""
    ranges = {name: parse_range(name, each) for name, each in RANGES.items()}
    search = Search(
        path=Path(),
        recipe=Recipe(),
        ranges=ranges,
        metric="accuracy",
        first={"lr": 4e-4},
    )
    study = Study(search, 9)
    for number in range(count):
        study = Study(search, 9) if again else study
        params = study.suggest(number)
        good = 1 - abs(math.log10(params["lr"] / 1e-4)) / 10 + params["mixup"] / 10
        trial = Trial(number=number, params=params)
        for epoch in range(1, 10):
            value = good * (9 + epoch) / 18
            trial = dataclasses.replace(
                trial, values=(*trial.values, value), losses=(*trial.losses, 0.5)
            )
            if study.report(epoch, value, 0.5):
                trial = dataclasses.replace(trial, state="pruned")
                break
        else:
            trial = dataclasses.replace(trial, state="complete", value=value, loss=0.5)
        study.end(trial)
        search = search.with_trial(trial)
    return search


def test_equal_trials_are_compared_by_loss():
    ranges = {"lr": parse_range("lr", "1e-5..1e-3")}
    search = Search(path=Path(), recipe=Recipe(), ranges=ranges, metric="accuracy", first={})
    study = Study(search, 9)
    for number, (loss, stops) in enumerate([(0.5, False), (0.6, True), (0.4, False)]):
        params = study.suggest(number)
        assert study.report(1, 0.75, loss) is stops
        state = "pruned" if stops else "failed"
        study.end(Trial(number=number, params=params, state=state))


@pytest.mark.medium
def test_a_study_goes_on_as_if_it_had_not_been_interrupted():
    search = searched(20, again=False)
    assert searched(20, again=True).trials == search.trials
    assert search.trials[0].params["lr"] == 4e-4
    assert search.trials[0].state == "complete"
    lengths = {len(trial.values) for trial in search.trials}
    assert lengths == {1, 3, 9}
    trained = sum(len(trial.values) for trial in search.trials)
    assert trained < 20 * 9 / 2
    assert search.best.value > search.trials[0].value


@pytest.mark.medium
def test_every_trial_is_in_the_table_and_the_best_recipe_repeats_its_run(heard):
    search, _ = heard
    with (search.path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["state"] for row in rows] == [trial.state for trial in search.trials]
    assert [float(row["lr"]) for row in rows] == [trial.params["lr"] for trial in search.trials]
    best = search.best
    assert [row["trial"] for row in rows if row["best"]] == [str(best.number)]
    complete = [trial for trial in search.trials if trial.state == "complete"]
    assert best.value == max(trial.value for trial in complete)
    recipe = make_recipe(search.path / "best.toml")
    assert recipe == search.best_recipe
    assert {name: getattr(recipe, name) for name in best.params} == best.params
    run = zoo.load(search.folder_of(best))
    assert run.info.val_metrics["accuracy"] == best.value
    again = zoo.finetune(
        recipe=search.path / "best.toml", out="again", report=False, listen=lambda event: None
    )
    assert again.info.val_metrics == run.info.val_metrics


@pytest.mark.medium
def test_a_plot_shows_the_trials(heard):
    search, _ = heard
    svg = (search.path / "trials.svg").read_text()
    assert svg.lstrip().startswith("<?xml")
    assert all(f">{name}<" in svg for name in search.ranges)


@pytest.mark.medium
def test_the_first_trial_has_the_values_of_a_run_without_a_search(heard):
    search, _ = heard
    first = search.trials[0]
    assert (first.state, len(first.values)) == ("complete", 2)
    # From random weights; the recipe's own default is that of pretrained ones.
    assert first.params == {"lr": 1e-3, "mixup": 0.0}


@pytest.mark.medium
def test_only_the_best_trial_keeps_its_run(heard):
    search, _ = heard
    assert "pruned" in {trial.state for trial in search.trials}
    kept = [folder.name for folder in (search.path / "trials").iterdir()]
    assert kept == [str(search.best.number)]


@pytest.mark.medium
def test_events_tell_which_trial_they_are_of(heard):
    search, events = heard
    ends = [event for event in events if isinstance(event, TrialEnd)]
    starts = [event for event in events if isinstance(event, TrialStart)]
    assert [event.number for event in starts] == [event.number for event in ends] == [*range(4)]
    assert [event.state for event in ends] == [trial.state for trial in search.trials]
    assert [event.number for event in ends if event.best][-1] == search.best.number
    epochs = [len(trial.values) for trial in search.trials]
    assert [event.epochs for event in ends] == epochs
    assert sum(isinstance(event, EpochEnd) and event.epoch > 0 for event in events) == sum(epochs)


@pytest.mark.medium
def test_test_images_make_no_difference(data, heard, tmp_path):
    """Neither unreadable ones nor their absence, whether they are in the data or apart."""
    search, events = heard
    assert {event.split for event in events if isinstance(event, Measured)} == {"val"}
    run = zoo.load(search.folder_of(search.best))
    assert set(run.info.figures) == {"val"}
    assert not run.info.test_metrics
    bare = tmp_path / "colours"
    shutil.copytree(data / "train", bare / "train")
    shutil.copytree(data / "val", bare / "val")
    other = zoo.tune(
        bare, out="other", ranges=RANGES, trials=4, test=tmp_path / "nowhere", **FIELDS
    )
    assert trials_of(other) == trials_of(search)
    assert make_recipe("other/best.toml").test == str(tmp_path / "nowhere")


@pytest.mark.medium
def test_trials_share_what_is_computed_of_images(split_photos):
    """Features of the images are computed in the first trial, and read in the others."""
    computed, number = [], None

    def listen(event):
        nonlocal number
        if isinstance(event, TrialStart):
            number = event.number
        elif isinstance(event, Progress):
            computed.append((number, event.what))

    fields = {**FIELDS, "weights": "pretrained", "train": "probe+finetune", "epochs": 1}
    zoo.finetune(split_photos, out="start", **FIELDS)
    fields["weights"] = "start"
    search = zoo.tune(
        split_photos, out="s", ranges={"lr": "1e-4..1e-2"}, trials=2, listen=listen, **fields
    )
    assert [trial.state for trial in search.trials] == ["complete", "complete"]
    assert (0, "features") in computed
    assert {trial for trial, _ in computed} == {0}


CRASHES = [
    (1, TrialStart),
    (1, StepEnd),
    (2, EpochEnd),
    (1, TrialEnd),
    (5, EpochEnd),
    (3, TrialEnd),
]


@pytest.mark.medium
def test_an_interrupted_search_goes_on_to_the_same_trials(data, heard):
    search, _ = heard
    for count, kind in CRASHES:
        with suppress(Crash):
            tune_again(data, crash_at(count, kind))
    assert trials_of(tune_again(data, lambda event: None)) == trials_of(search)
    assert make_recipe("search/best.toml") == search.best_recipe


def tune_again(data, listen):
    return zoo.tune(
        data, out="search", ranges=RANGES, trials=4, resume="auto", listen=listen, **FIELDS
    )


@pytest.mark.slow
def test_a_search_killed_again_and_again_goes_on_to_the_same_trials(data, heard):
    """Killed with SIGKILL; each time later, so that it comes to its end."""
    search, _ = heard
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in FIELDS.items()]
    flags += [f"--range={name}={among}" for name, among in RANGES.items()]
    words = [sys.executable, "-m", "zoo", "tune", f"--data={data}", "--out=search", *flags]
    killed, records = 0, 0
    while True:
        process = subprocess.Popen([*words, "--trials=4", "--resume=auto"])
        until = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < until:
            # After each other change of the record, at any moment of what follows.
            record = Path("search/search.json")
            if record.exists() and len(record.read_text()) != records and killed < 6:
                time.sleep(0.1 * killed)
                records = len(record.read_text())
                process.kill()
                break
            time.sleep(0.01)
        code = process.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
    assert killed == 6
    assert trials_of(read_search(Path("search"))) == trials_of(search)


@pytest.mark.medium
def test_a_search_goes_on_with_more_trials(data, heard):
    search, _ = heard
    shorter = zoo.tune(data, out="search", ranges=RANGES, trials=2, **FIELDS)
    assert trials_of(shorter) == trials_of(search)[:2]
    unchanged = zoo.tune(out="search", resume=True)
    assert trials_of(unchanged) == trials_of(shorter)
    assert trials_of(zoo.tune(out="search", resume=True, trials=4)) == trials_of(search)


@pytest.mark.medium
def test_a_search_out_of_time_goes_on_with_more_of_it(data, monkeypatch):
    with_speed(monkeypatch, train=1e-6, forward=1e-6)

    def linger(event):
        if isinstance(event, EpochEnd):
            time.sleep(6)

    with pytest.raises(TrainingError):
        zoo.tune(data, out="search", ranges=RANGES, time="5s", listen=linger, **FIELDS)
    assert "complete" not in {trial.state for trial in read_search(Path("search")).trials}
    search = zoo.tune(out="search", resume=True, time="1000s", trials=1)
    assert [trial.state for trial in search.trials] == ["complete"]
    assert not Path("search/trials/1").exists()


@pytest.mark.medium
def test_a_search_ends_when_all_combinations_are_tried(data):
    search = zoo.tune(
        data, out="search", ranges={"mixup": [0, 0.2]}, trials=9, **{**FIELDS, "epochs": 1}
    )
    assert sorted(trial.params["mixup"] for trial in search.trials) == [0.0, 0.2]


@pytest.mark.medium
def test_values_that_do_not_go_together_are_a_failed_trial(data):
    fields = {**FIELDS, "epochs": 1, "random_erasing": 0.5}
    search = zoo.tune(data, out="search", ranges={"augment": "light,none"}, trials=3, **fields)
    assert [trial.state for trial in search.trials] == ["complete", "failed"]
    assert "random_erasing" in search.trials[1].reason


@pytest.mark.medium
def test_the_command_line_searches_and_goes_on(data):
    Path("recipe.toml").write_text('[search]\nmixup = [0, 0.2]\nlr = "1e-4..1e-2"\n')
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in FIELDS.items()]
    words = ("tune", "--data", data, "--recipe", "recipe.toml", "--out", "search", *flags)
    done = zoo_(*words, "--trials", 2)
    assert "search/best.toml" in done.stdout
    assert "Traceback" not in done.output
    assert [trial.number for trial in read_search(Path("search")).trials] == [0, 1]
    zoo_("tune", "--resume", "search", "--trials", 3)
    assert len(read_search(Path("search")).trials) == 3
    for other in (["--lr", "0.1"], ["--range", "mixup=0,0.3"], ["--epochs", "3"]):
        assert zoo_("tune", "--resume", "search", *other, code=2).stderr.count("Error: ") == 1
    zoo_(*words, "--trials", 2, code=2)
    assert len(read_search(Path("search")).trials) == 3


@pytest.mark.parametrize(
    "words",
    [
        ["--range", "nonsense=1..2"],
        ["--range", "lr=1e-3..1e-5"],
        ["--range", "mixup=0,x"],
        ["--range", "lr"],
        ["--range", "lr=1e-5..1e-3", "--range", "lr=1,2"],
        ["--range", "lr=1e-5..1e-3", "--lr", "1e-3"],
        ["--range", "backbone=nonsense,resnet18"],
        ["--trials", "0"],
        ["--time", "soon"],
        ["--resume", "auto"],
        ["--resume", "elsewhere"],
        ["--resume", "elsewhere", "--out", "search"],
        ["--folds", "3"],
        ["--data", "elsewhere"],
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(photos, words):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    named = ["--data", photos] if "--data" not in words else []
    limit = ["--trials", "1"] if "--trials" not in words else []
    done = zoo_("tune", *flags, *named, *limit, *words, code=2)
    assert done.stderr.count("Error: ") == 1
    assert "Traceback" not in done.stderr
    assert list(Path().iterdir()) in ([], [Path("zoo")])


def test_a_search_needs_an_end_and_val_images(photos):
    with pytest.raises(RecipeError):
        zoo.tune(photos, ranges=RANGES, out="search", **FIELDS)
    with pytest.raises(RecipeError):
        zoo.tune(photos, ranges=RANGES, trials=1, folds=3, **FIELDS)
    with pytest.raises(DataError):
        zoo.tune(photos, ranges=RANGES, trials=1, val_split=0.0, out="search", **FIELDS)
    assert not Path("search").exists()


@pytest.mark.parametrize("train", ["finetune", "probe"])
def test_a_time_too_short_for_a_trial_is_refused(photos, monkeypatch, train):
    with_speed(monkeypatch, train=10.0, forward=10.0)
    ranges = {"label_smoothing": [0, 0.1]}
    fields = {**FIELDS, "train": train}
    with pytest.raises(RecipeError) as error:
        zoo.tune(photos, ranges=ranges, time="60s", out="search", **fields)
    assert "60s" in str(error.value)
    assert not Path("search").exists()


def test_a_folder_that_is_used_is_refused(photos):
    Path("search").mkdir()
    Path("search/notes.txt").touch()
    with pytest.raises(RunError):
        zoo.tune(photos, ranges=RANGES, trials=1, out="search", **FIELDS)
    with pytest.raises(RunError):
        zoo.tune(out="search", resume=True)
    assert [file.name for file in Path("search").iterdir()] == ["notes.txt"]


@pytest.mark.medium
def test_a_search_runs_in_one_process(photos):
    code = (
        "import zoo\n"
        f"zoo.tune({str(photos)!r}, out='search', ranges={RANGES!r}, trials=1, **{FIELDS!r})\n"
    )
    Path("script.py").write_text(code)
    done = subprocess.run([*IN_TWO, "script.py"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "RecipeError" in done.stderr
    assert not Path("search").exists()


GOOD = {
    "recipe": {"epochs": 2},
    "ranges": {"lr": "1e-05..0.001:log", "mixup": [0.0, 0.2]},
    "metric": "accuracy",
    "first": {"mixup": 0.0},
    "most_trials": None,
    "seconds": 1.5,
    "trials": [
        {
            "number": 0,
            "params": {"lr": 1e-4, "mixup": 0.2},
            "state": "complete",
            "values": [0.5, 0.75],
            "losses": [0.4, 0.3],
            "value": 0.75,
            "loss": 0.3,
            "epoch": 2,
            "seconds": 1.0,
            "reason": "",
        }
    ],
}


def test_a_record_that_is_damaged_is_refused():
    folder = Path("search")
    folder.mkdir()
    file = folder / "search.json"
    file.write_text(json.dumps(GOOD))
    assert read_search(folder).best.number == 0
    trial = GOOD["trials"][0]
    for wrong in (
        {"recipe": {"epochs": "many"}},
        {"ranges": {"lr": "3"}},
        {"ranges": {"lr": "1e-05..0.001:log"}},
        {"trials": [{**trial, "number": 1}]},
        {"trials": [{**trial, "params": {"lr": 1.0, "mixup": 0.2}}]},
        {"trials": [{**trial, "state": "other"}]},
        {"trials": [{**trial, "losses": [0.4]}]},
        {"trials": "none"},
        {"seconds": "long"},
        {"first": {"mixup": [1]}},
    ):
        file.write_text(json.dumps({**GOOD, **wrong}))
        with pytest.raises(RunError):
            read_search(folder)
    file.write_text(json.dumps(GOOD)[:-9])
    with pytest.raises(RunError):
        read_search(folder)
