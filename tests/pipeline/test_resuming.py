"""Runs that were interrupted go on to the very weights they would have come to."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import zoo
from tests.conftest import QUICK, make_photos, save_photo, write_plugin, zoo_
from tests.pipeline.conftest import flags, start
from tests.pipeline.crash import Crash, check_equal, check_whole, crash_at, crashed_and_resumed
from zoo.errors import NonFiniteError, RecipeError, RunError
from zoo.events import EpochEnd, Note, Progress, StepEnd
from zoo.recipe import dump_recipe, make_recipe
from zoo.runs.checkpoint_file import read_checkpoint, write_checkpoint
from zoo.weights import read_state_dict, tensors_sha256

#: With which the tiny network diverges at once, and with a part of which it does not.
LR_TOO_LARGE = 30.0

#: Runs of each kind: 24 train images in steps of 8 make 3 steps an epoch.
KINDS = {
    "sgd": {"train": "finetune", "epochs": 3},
    "adamw": {"train": "finetune", "epochs": 3, "optimizer": "adamw", "schedule": "constant"},
    "probe, then fine-tuned": {"train": "probe+finetune", "epochs": 2},
    "unfrozen on the way": {
        "train": "finetune",
        "freeze": 4,
        "unfreeze_epoch": (2, 3),
        "epochs": 3,
    },
    "frozen, activations cached": {"train": "finetune", "freeze": 4, "epochs": 3},
    "stopped by patience": {"train": "finetune", "epochs": 9, "patience": 1, "lr": 1e-6},
    "batch norm trains": {"train": "finetune", "epochs": 2, "batch_norm": "train"},
    "adamw, mixed and averaged": {
        "epochs": 2,
        "optimizer": "adamw",
        "mixup": 0.2,
        "cutmix": 1.0,
        "ema_decay": 0.9,
    },
    "lion, gradients added up": {
        "train": "finetune",
        "epochs": 3,
        "optimizer": "lion",
        "optimizer_options": {"betas": (0.9, 0.98)},
        "schedule": "linear",
        "batch_size": 4,
        "grad_accumulation": 2,
    },
    "last epochs averaged": {
        "train": "finetune",
        "epochs": 3,
        "average_epochs": 2,
        "batch_norm": "train",
        "val_split": 0.0,
    },
    "ends within an epoch": {"train": "finetune", "steps": 7, "warmup_steps": 2},
    "lamb": {"train": "finetune", "freeze": 4, "unfreeze_epoch": 2, "epochs": 3, "lr": 0.01}
    | {"optimizer": "lamb"},
    "augmented repeatedly": {
        "train": "finetune",
        "freeze": 4,
        "epochs": 2,
        "augment": "rand-augment",
        "random_erasing": 0.25,
        "repeated_augmentation": 3,
    },
    "adapted": {"epochs": 2, "lora_rank": 2, "mixup": 0.2, "ema_decay": 0.9, "lr": 0.01}
    | {"average_epochs": 2},
}


#: Those whose state others hold too: momentum, the probe's, and statistics of batch norm.
SLOW_KINDS = {
    "sgd",
    "adamw",
    "lion, gradients added up",
    "probe, then fine-tuned",
    "batch norm trains",
    "unfrozen on the way",
    "stopped by patience",
}

MEDIUM_KINDS = {
    "adapted",
    "adamw, mixed and averaged",
    "augmented repeatedly",
    "frozen, activations cached",
    "lamb",
    "last epochs averaged",
}

MARKS = dict.fromkeys(SLOW_KINDS, pytest.mark.slow) | dict.fromkeys(
    MEDIUM_KINDS, pytest.mark.medium
)


@dataclass(frozen=True)
class Twice:
    """A run of two epochs, undisturbed and crashed; not to be changed.

    Attributes:
        fields: What it was made with.
        undisturbed: The run to its end.
        crashed: The folder of the same run that ended in its second epoch.
    """

    fields: dict
    undisturbed: zoo.Run
    crashed: Path


@pytest.fixture(scope="module")
def twice(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twice")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fields = interrupted(photos, out=folder / "crashed")
        undisturbed = zoo.finetune(out=folder / "undisturbed", **fields)
    return Twice(fields, undisturbed, folder / "crashed")


@pytest.fixture
def crashed(twice):
    """The run that crashed, in the folder `run`; returns its fields."""
    shutil.copytree(twice.crashed, "run")
    return twice.fields


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=MARKS.get(kind, ())) for kind in KINDS])
def test_a_run_that_crashed_at_any_step_comes_to_the_same_weights(photos, kind):
    fields = {**start(**KINDS[kind]), "data": photos, "checkpoint_every": 1}
    undisturbed = zoo.finetune(out="undisturbed", **fields)
    # At the first step, in the middle of an epoch, at an epoch's end, before its validation.
    crashes = [(1, StepEnd), (1, StepEnd), (1, EpochEnd), (2, StepEnd), (3, StepEnd)]
    run = crashed_and_resumed("run", fields, crashes)
    check_equal(run, undisturbed)
    check_whole("run")


@pytest.mark.slow
def test_a_run_that_crashed_in_its_probe_goes_on_to_the_same(photos):
    fields = {**start(train="probe+finetune", views=2), "data": photos}
    undisturbed = zoo.finetune(out="undisturbed", **fields)
    run = crashed_and_resumed("run", fields, [(1, Progress), (2, Progress), (1, EpochEnd)])
    check_equal(run, undisturbed)


@pytest.mark.medium
@pytest.mark.parametrize(
    "name",
    ["drops/test_efficientnet", pytest.param("drops/test_vit", marks=pytest.mark.slow)],
)
def test_dropout_and_stochastic_depth_are_drawn_again_alike(photos, drops, name):
    fields = {**start(name, train="finetune", epochs=2), "data": photos, "checkpoint_every": 2}
    undisturbed = zoo.finetune(out="undisturbed", **fields)
    check_equal(crashed_and_resumed("run", fields, [(3, StepEnd), (2, StepEnd)]), undisturbed)


@pytest.mark.slow
@pytest.mark.usefixtures("crashed")
def test_a_resumed_run_may_load_images_otherwise(twice):
    check_equal(zoo.resume("run", workers=2, cache_size=0.0), twice.undisturbed)


@pytest.mark.slow
def test_without_a_checkpoint_in_the_epoch_it_begins_again(photos, twice):
    fields = {**start(train="finetune", epochs=2), "data": photos}
    notes = []
    with pytest.raises(Crash):
        zoo.finetune(out="run", **fields, listen=crash_at(5))
    run = zoo.resume("run", listen=lambda e: notes.append(getattr(e, "text", "")))
    assert any("after epoch 1 of 2" in note for note in notes)
    check_equal(run, twice.undisturbed)


@pytest.mark.slow
def test_the_folder_may_have_moved_and_the_photos_too(photos, twice, tmp_path):
    own = shutil.copytree(photos, tmp_path / "here")
    interrupted(own)
    own.rename(tmp_path / "there")
    Path("run").rename("moved")
    check_equal(zoo.resume("moved", data=str(tmp_path / "there")), twice.undisturbed)


@pytest.mark.medium
def test_a_killed_run_whose_model_was_not_yet_written_gets_it_from_the_checkpoint(photos):
    fields = {**start(train="finetune", epochs=1), "data": photos}
    undisturbed = zoo.finetune(out="undisturbed", **fields)
    with pytest.raises(Crash):
        zoo.finetune(out="run", **fields, listen=crash_at(1, EpochEnd))
    for name in ("model.safetensors", "metrics.csv", "README.md", "config.json", "recipe.toml"):
        Path("run", name).unlink()
    check_equal(zoo.resume("run"), undisturbed)
    assert Path("run/recipe.toml").read_text() == Path("undisturbed/recipe.toml").read_text()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.medium
def test_a_signal_finishes_the_step_and_says_how_to_go_on(photos, twice, monkeypatch, signum, code):
    fields = {**start(train="finetune", epochs=2), "data": photos}
    steps = []

    def listen(self, event):
        if isinstance(event, StepEnd):
            steps.append(event)
            if len(steps) == 4:
                os.kill(os.getpid(), signum)

    with monkeypatch.context() as patch:
        patch.setattr("zoo.cli.console.TrainingConsole.__call__", listen)
        stopped = zoo_("finetune", *flags(fields), "--out", "run", code=code)
    assert len(steps) == 4
    *_, what, kept, how = stopped.stderr.splitlines()
    assert signal.Signals(signum).name in what
    assert "epoch 1" in kept
    assert how.endswith("zoo finetune --resume run")
    resumed = zoo_("finetune", "--resume", "run")
    assert "in epoch 2 of 2, after step 2" in resumed.stdout
    check_equal(zoo.load("run"), twice.undisturbed)


@pytest.mark.medium
def test_a_second_signal_ends_at_once_and_loses_nothing(twice):
    steps = []

    def listen(event):
        if isinstance(event, StepEnd):
            steps.append(event)
            if len(steps) == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(zoo.Stopped) as stopped:
        zoo.finetune(out="run", **twice.fields, listen=listen)
    assert stopped.value.signum == signal.SIGINT
    assert len(steps) == 2
    check_equal(zoo.resume("run"), twice.undisturbed)


@pytest.mark.medium
def test_a_stop_while_the_first_batch_loads_does_not_scale_the_probe_twice(photos, monkeypatch):
    """Workers of the loader end with the run, before the first step."""
    fields = {**start(train="probe+finetune", epochs=1), "data": photos, "probe_scale": 0.5}
    undisturbed = zoo.finetune(out="undisturbed", **fields)

    def killed(loop, after_step):
        loop.control.stop.signum = signal.SIGTERM
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr("zoo.training.train.train_epoch", killed)
        with pytest.raises(zoo.Stopped):
            zoo.finetune(out="run", **fields)
    check_equal(zoo.resume("run"), undisturbed)


def test_a_program_keeps_its_own_signal_handler(photos):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("own"))
    try:
        zoo.finetune(
            photos,
            out="run",
            **QUICK,
            listen=lambda e: isinstance(e, StepEnd) and os.kill(os.getpid(), signal.SIGTERM),
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def interrupted(photos, out="run", **fields):
    fields = {**start(train="finetune", epochs=2), "checkpoint_every": 1, "data": photos, **fields}
    with pytest.raises(Crash):
        zoo.finetune(out=out, **fields, listen=crash_at(4))
    return fields


@pytest.mark.usefixtures("crashed")
def test_what_may_not_differ_is_refused_by_name():
    before = sorted((p, p.read_bytes()) for p in Path("run").rglob("*") if p.is_file())
    refused = zoo_("finetune", "--resume", "run", "--batch-size=4", "--lr=0.5", code=2)
    assert "  batch_size = 4, was 8\n  lr = 0.5, was 0.0004\n" in refused.stderr
    assert "--allow-changed" in refused.stderr
    assert sorted((p, p.read_bytes()) for p in Path("run").rglob("*") if p.is_file()) == before


@pytest.mark.usefixtures("crashed")
def test_what_fits_nothing_is_refused_even_so():
    refused = zoo_("finetune", "--resume", "run", "--optimizer=sgd", "--allow-changed", code=2)
    assert "optimizer = 'sgd', was 'adamw'" in refused.stderr
    assert "--allow-changed" not in refused.stderr


@pytest.mark.usefixtures("crashed")
@pytest.mark.medium
def test_what_was_allowed_to_differ_is_recorded():
    zoo_("finetune", "--resume", "run", "--batch-size=4", "--epochs=3", "--allow-changed")
    (line,) = zoo.load("run").info.history
    assert line == "in epoch 2 of 3, after step 1: epochs = 3, was 2; batch_size = 4, was 8"
    assert "in epoch 2 of 3, after step 1" in Path("run/README.md").read_text()
    assert "batch_size = 4" in Path("run/recipe.toml").read_text()
    assert len(Path("run/metrics.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.medium
def test_other_images_are_refused_by_name(photos, tmp_path):
    # All in train but one of each class, so that what changes is known to be in train.
    interrupted(photos, val_split=0.1)
    changes = {
        "train images new: red/new": lambda d: save_photo(d / "red/new.png", (200, 40, 40), 99),
        "images gone: red/1.png": lambda d: (d / "red/1.png").unlink(),
        "images changed: red/1.png": lambda d: save_photo(d / "red/1.png", (200, 40, 40), 98),
        "images new: blue/x.png": lambda d: (d / "red/1.png").rename(d / "blue/x.png"),
    }
    for n, (said, change) in enumerate(changes.items()):
        own = shutil.copytree(photos, tmp_path / str(n))
        change(own)
        with pytest.raises(RunError, match=said):
            zoo.resume("run", data=own)
    with pytest.warns(UserWarning, match=said):
        run = zoo.resume("run", data=own, allow_changed=True)
    assert said in run.info.history[0]


def test_other_starting_weights_are_refused(photos):
    fields = interrupted(photos)
    shutil.copy(start(seed=1)["weights"], fields["weights"])
    with pytest.raises(RunError, match="initial weights"):
        zoo.resume("run")


@pytest.mark.medium
def test_resume_auto_begins_goes_on_and_then_has_nothing_to_do(crashed, twice):
    command = ["finetune", "--resume", "auto", "--out", "run", *flags(crashed)]
    assert "in epoch 2" in zoo_(*command).stdout
    check_equal(zoo.load("run"), twice.undisturbed)
    again = zoo_(*command)
    check_equal(zoo.load("run"), twice.undisturbed)
    with pytest.raises(RunError, match="epochs = 9, was 2"):
        zoo.resume("run", epochs=9)
    longer = zoo_("finetune", "--resume", "run", "--epochs", "9", code=2)
    assert "--weights run" in longer.stderr
    assert "zoo predict run" in again.stdout
    fresh = zoo_("finetune", "--resume", "auto", "--out", "fresh", *flags(crashed))
    assert "in epoch 2" not in fresh.stdout
    check_equal(zoo.load("fresh"), twice.undisturbed)


def test_resume_auto_begins_where_a_run_was_killed_before_its_first_checkpoint(photos):
    Path("run/checkpoint").mkdir(parents=True)
    Path("run/checkpoint/.lock").touch()
    Path("run/checkpoint/data.safetensors").write_bytes(b"whole")
    Path("run/checkpoint/.last.safetensors.abcd1234").write_bytes(b"half")
    Path("run/checkpoint/.tmpBfypvV").write_bytes(b"what safetensors itself was writing")
    zoo_("finetune", "--resume", "auto", "--out", "run", "--data", photos, *flags(QUICK))
    check_whole("run")


def test_wrong_uses_of_resume_are_said(photos):
    for args, said in [
        (("--resume", "auto"), "--out"),
        (("--resume", "nowhere"), "nowhere"),
        (("--resume", "run", "--out", "x"), "--out"),
        (("--allow-changed",), "--resume"),
    ]:
        assert said in zoo_("finetune", *args, code=2).stderr


@pytest.mark.usefixtures("crashed")
@pytest.mark.medium
def test_a_run_that_another_process_writes_is_left_alone(photos, monkeypatch):
    Path("new/checkpoint").mkdir(parents=True)
    monkeypatch.setattr("zoo.pipeline.finetune.ORPHANS", 0.2)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="folder run; "):
            zoo.resume("run")
        with pytest.raises(RunError, match="folder new; "):
            zoo.finetune(photos, out="new", **QUICK)
    finally:
        holder.communicate("go\n")
    assert zoo.resume("run").info.epoch


HOLD = """
from pathlib import Path
from filelock import FileLock
with FileLock("run/checkpoint/.lock"), FileLock("new/checkpoint/.lock"):
    print("held", flush=True)
    input()
"""


@pytest.mark.usefixtures("crashed")
@pytest.mark.medium
def test_a_damaged_checkpoint_is_not_gone_on_with():
    path = Path("run/checkpoint/last.safetensors")
    whole = path.read_bytes()
    for position in (3, 40, len(whole) // 2, len(whole) - 1):
        broken = bytearray(whole)
        broken[position] ^= 1
        path.write_bytes(broken)
        refused = zoo_("finetune", "--resume", "run", code=2)
        assert "last.safetensors" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    path.write_bytes(whole)
    assert zoo.resume("run").info.epoch


def test_a_checkpoint_holds_tensors_and_json_alone(photos):
    interrupted(photos, optimizer="adamw")
    names = {p.name for p in Path("run/checkpoint").iterdir()}
    assert names - {".lock"} == {"data.safetensors", "last.safetensors"}
    with safe_open("run/checkpoint/last.safetensors", framework="pt") as content:
        about = json.loads(content.metadata()["about"])
        dtypes = {content.get_tensor(name).dtype for name in content.keys()}  # noqa: SIM118
    assert about["training"]["epoch"] == 1
    assert dtypes <= {torch.float32, torch.int64}
    umask = os.umask(0)
    os.umask(umask)
    assert Path("run/checkpoint/last.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.slow
def test_a_file_that_can_not_grow_ends_the_run_with_a_line_and_earlier_work_intact(twice):
    resource = pytest.importorskip("resource")
    size = Path(twice.undisturbed.path, "model.safetensors").stat().st_size
    steps = []

    def listen(event):
        if isinstance(event, StepEnd):
            steps.append(event)
            if len(steps) == 4:
                # No file may grow beyond that any more.
                resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(RunError, match=r"run/checkpoint/last.safetensors") as full:
            zoo.finetune(out="run", **twice.fields, listen=listen)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.strerror(errno.EFBIG) in str(full.value)
    assert "zoo finetune --resume run" in full.value.__notes__[0]
    assert not list(Path("run").rglob(".*.*.????????"))
    check_equal(zoo.resume("run"), twice.undisturbed)


KILLED_WRITING = """
import json, resource, signal, sys
import zoo
from zoo.events import StepEnd

def listen(event):
    if isinstance(event, StepEnd) and event.step == 2:
        # The first byte beyond that kills, without a chance to clear up.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

zoo.finetune(out="run", listen=listen, **json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_process_killed_while_safetensors_writes_leaves_nothing_for_good(photos):
    fields = {**start(train="finetune"), "data": str(photos), "checkpoint_every": 1}
    undisturbed = zoo.finetune(out="undisturbed", **fields)
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITING, json.dumps(fields)], check=False)
    assert killed.returncode == -signal.SIGXFSZ
    assert [p for p in Path("run/checkpoint").iterdir() if p.name.startswith(".tmp")]
    check_equal(zoo.resume("run"), undisturbed)
    check_whole("run")


def test_a_loss_that_is_not_finite_names_where_and_how_fast(photos):
    fields = {**start(train="finetune", epochs=3, lr=1e30, on_nan="stop"), "data": photos}
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 2 of 3") as nan:
        zoo.finetune(out="run", **fields)
    assert nan.value.step == 1


@pytest.mark.slow
def test_a_loss_that_is_not_finite_goes_back_with_half_the_rates(photos):
    fields = {**start(train="finetune", epochs=1, lr=LR_TOO_LARGE), "data": photos}
    with pytest.raises(NonFiniteError):
        zoo.finetune(out="stopped", **fields, on_nan="stop")
    notes = []

    def listen(event):
        if isinstance(event, Note) and event.warning:
            notes.append(event.text)

    run = zoo.finetune(out="run", **fields, on_nan="rewind", listen=listen)
    assert run.info.epoch
    assert " 0.5 " in notes[0]
    assert run.info.history
    assert set(run.info.history) <= set(notes)
    # Interrupted on the way it comes to the same.
    fields = {**fields, "on_nan": "rewind"}
    crashes = [(1, StepEnd), (4, StepEnd)]
    check_equal(crashed_and_resumed("again", fields, crashes, listen=notes.append), run)


def test_a_run_that_never_gets_finite_gives_up(photos):
    fields = {**start(train="finetune", epochs=2, lr=1e30), "data": photos}
    notes = []
    with pytest.raises(NonFiniteError):
        zoo.finetune(out="run", **fields, on_nan="rewind", listen=notes.append)
    rates = [n.text.split("times ")[1] for n in notes if isinstance(n, Note) and n.warning]
    assert [float(text.split()[0]) for text in rates] == [
        pytest.approx(0.5**n, rel=0.01) for n in range(1, 11)
    ]


def test_a_checkpoint_whose_weights_have_run_away_is_not_gone_back_to(photos):
    fields = interrupted(photos, on_nan="rewind")
    checkpoint = read_checkpoint(Path("run"))
    # Still numbers, but too large for what is made of them.
    tensors = {
        name: tensor.sign() * 3e38 if name.startswith("model/classifier") else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    write_checkpoint(Path("run"), tensors, checkpoint.about)
    assert fields["on_nan"] == "rewind"
    refused = zoo_("finetune", "--resume", "run", code=2)
    assert "epoch 2, step 2 of 3" in refused.stderr
    assert "checkpoint" in refused.stderr
    assert " 0.5 " not in refused.output


def test_what_is_said_of_a_time_between_checkpoints():
    for value in ("10", "-1m", "10 m", "m", "1d", 0, True, "1e3s"):
        with pytest.raises(RecipeError, match="checkpoint_every"):
            zoo.finetune(checkpoint_every=value)
    assert zoo.Recipe(checkpoint_every="1.5m").checkpoint_seconds == 90
    assert zoo.Recipe(checkpoint_every=3).checkpoint_seconds is None


@pytest.mark.slow
def test_by_the_clock_a_checkpoint_is_written_within_an_epoch(tmp_path):
    photos = make_photos(tmp_path / "many", 20)
    fields = {**start(train="finetune"), "data": photos, "checkpoint_every": "0.000001s"}
    undisturbed = zoo.finetune(out="undisturbed", **fields)
    with pytest.raises(Crash):
        zoo.finetune(out="run", **fields, listen=crash_at(4))
    notes = []
    run = zoo.resume("run", listen=lambda e: notes.append(getattr(e, "text", "")))
    assert any("in epoch 1 of 1, after step 4" in note for note in notes)
    check_equal(run, undisturbed)


LAUNCHED = """
import os, signal, sys
import zoo
from zoo.events import StepEnd

steps = 0

def kill(event):
    global steps
    steps += isinstance(event, StepEnd)
    if steps == 4:
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "whole":
    zoo.finetune(out="whole", recipe="launched.toml")
elif sys.argv[1] == "killed":
    zoo.finetune(out="run", recipe="launched.toml", listen=kill)
else:
    zoo.resume("run")
"""


def launch(processes, what, **env):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "launched.py", what]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_to_the_same_weights(photos):
    fields = {**start(train="finetune", epochs=2), "batch_size": 4, "checkpoint_every": 1}
    Path("launched.toml").write_text(dump_recipe(make_recipe(data=photos, **fields)))
    Path("launched.py").write_text(LAUNCHED)
    assert launch(2, "whole").returncode == 0
    assert launch(2, "killed").returncode != 0
    alone = launch(1, "resume")
    assert alone.returncode != 0
    assert "1 processes, were 2" in alone.stderr
    resumed = launch(2, "resume")
    assert resumed.returncode == 0, resumed.stderr
    check_equal(zoo.load("run"), zoo.load("whole"))


@pytest.mark.medium
def test_a_run_goes_on_following_links_or_with_copies_in_their_place(photos, twice, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for folder in photos.iterdir():
        (linked / folder.name).symlink_to(folder)
    interrupted(linked, follow_links=True)
    shutil.copytree("run", "moved")
    check_equal(zoo.resume("run"), twice.undisturbed)
    copied = shutil.copytree(photos, tmp_path / "copied")
    zoo.resume("moved", data=copied, follow_links=False)


#: A network with dropout, for which memory ends once: in the process that the environment names, in
#: its second step.
CROWDED = """
import functools
import os

import torch
import zoo


@zoo.hookimpl
def zoo_backbones():
    import timm
    import zoo_timm

    name = "test_efficientnet"
    cfg = timm.get_pretrained_cfg(name)
    yield zoo_timm.declare(name, cfg, build=functools.partial(build, name), weights=None)


def build(name, num_classes, pretrained):
    import timm

    steps = 0

    def crowd(module, args):
        nonlocal steps
        steps += module.training
        if steps == 2 and module.training and os.environ["RANK"] == os.environ.get("CROWDED"):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    classes = {} if num_classes is None else {"num_classes": num_classes}
    net = timm.create_model(name, drop_rate=0.5, **classes)
    net.register_forward_pre_hook(crowd)
    return net
"""


@pytest.mark.slow
def test_a_process_that_had_less_memory_goes_on_in_the_parts_it_had(photos, tmp_path):
    write_plugin(tmp_path, "zoo-crowded", "crowded", "zoo_crowded", CROWDED)
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    fields = {**QUICK, "backbone": "crowded/test_efficientnet", "train": "finetune", "epochs": 2}
    fields |= {"batch_size": 4, "checkpoint_every": 1}
    Path("launched.toml").write_text(dump_recipe(make_recipe(data=photos, **fields)))
    Path("launched.py").write_text(LAUNCHED)
    whole = launch(2, "whole", PYTHONPATH=paths, CROWDED="1")
    assert whole.returncode == 0, whole.stderr
    assert "4 images" in whole.stderr
    assert "2 at a time" in whole.stderr
    assert launch(2, "killed", PYTHONPATH=paths, CROWDED="1").returncode != 0
    about = read_checkpoint(Path("run")).about
    assert about["training"]["micro_batches"][1] == 2
    assert about["training"]["micro_batches"][0] != 2
    resumed = launch(2, "resume", PYTHONPATH=paths)
    assert resumed.returncode == 0, resumed.stderr
    assert "at a time" not in resumed.stderr
    # The plugin is not installed here.
    one, other = (read_state_dict(Path(run, "model.safetensors")) for run in ("run", "whole"))
    assert tensors_sha256(one) == tensors_sha256(other)
