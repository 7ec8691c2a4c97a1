"""What errors say: settings by name in Python, by flag on the command line."""

import pickle

import pytest

import zoo
from tests.conftest import QUICK, zoo_
from zoo.cli.words import with_flags
from zoo.errors import DataError, DivergenceError, RunError, SizeError, TrainingError, ZooError
from zoo.machine import processes

REFUSED = [
    (
        {"backbone": "timm/test_vit", "image_size": 100},
        SizeError,
        "try another `image_size`, or leave it out",
        "try another --image-size, or leave it out",
    ),
    (
        {"batch_size": 1, "batch_norm": "train"},
        TrainingError,
        "use a larger `batch_size` (or `global_batch`), or `batch_norm=frozen`",
        "use a larger --batch-size (or --global-batch), or --batch-norm frozen",
    ),
    (
        {"out": "used"},
        RunError,
        "give a new or an empty folder",
        "Error: --out used is not empty; give a new or an empty folder",
    ),
]


@pytest.fixture
def used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(("changed", "kind", "hint", "said"), REFUSED)
def test_a_hint_names_fields_in_python_and_flags_on_the_command_line(
    photos, changed, kind, hint, said
):
    fields = QUICK | changed
    with pytest.raises(kind) as error:
        zoo.finetune(photos, **fields)
    assert error.value.hint == hint
    assert str(error.value) == f"{error.value.text}; {hint}"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    result = zoo_("finetune", "--data", str(photos), *flags, code=2)
    assert said in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("`head_lr_mult` or `on_nan=rewind`", "--head-lr-mult or --on-nan rewind"),
        ("`interpolate=false`, `deterministic=true`", "--no-interpolate, --deterministic"),
        ("`out=my folder` is a file", "--out my folder is a file"),
        ("`build` and `zoo weights add NAME FILE`", "`build` and `zoo weights add NAME FILE`"),
    ],
)
def test_settings_alone_become_flags(text, said):
    assert with_flags(text) == said


def test_a_hint_follows_a_text_of_several_lines_on_its_own():
    assert str(ZooError("images differ:\n  a.png", hint="undo that")) == (
        "images differ:\n  a.png\nundo that"
    )


def test_an_error_reaches_another_process_whole():
    error = pickle.loads(pickle.dumps(DivergenceError("the loss is nan", 3, hint="stop")))
    assert (error.text, error.step, error.hint) == ("the loss is nan", 3, "stop")


def test_an_error_of_one_process_is_raised_in_all_with_its_hint(monkeypatch):
    monkeypatch.setattr(processes, "exchange", lambda told, **waiting: [None, told])

    def fail():
        raise DataError("a.png has changed", hint="start again")

    with pytest.raises(DataError) as error:
        processes.together(fail)
    assert error.value.text == "process 1 of 2: a.png has changed"
    assert error.value.hint == "start again"
