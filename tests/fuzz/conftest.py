"""Many inputs through the real command line, in this process: none hangs, crashes or babbles."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import zoo
from tests.conftest import TINY
from tests.fuzz.images_support import SECONDS, within
from zoo import plugins
from zoo.cli import main
from zoo.io.text import printable

#: Characters of an answer.
LONGEST = 20_000


@dataclass(frozen=True)
class Answer:
    """What a command answered: its exit code, 0 or 2, and what it printed."""

    code: int
    out: str
    err: str


def run_cli(args: Iterable[object], seconds: float = SECONDS, longest: int = LONGEST) -> Answer:
    """Run a command; fail unless it answers in time, as a command should.

    That is: exit code 0, or 2 with a message on stderr; no traceback; no more than `longest`
    characters; nothing that a terminal would obey.
    """
    with within(seconds):
        result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    output = result.stdout + result.stderr
    assert result.exit_code in (0, 2), output
    assert result.exit_code == 0 or result.stderr.strip(), "refused without a word"
    assert "Traceback" not in output
    assert len(output) <= longest
    shown = output.encode(errors="backslashreplace").decode()
    assert printable(shown, lines=True) == shown
    return Answer(code=result.exit_code, out=result.stdout, err=result.stderr)


def fuzz(
    check: Callable[[Any], None],
    strategy: st.SearchStrategy[Any],
    examples: int,
    found: Iterable[Any] = (),
) -> None:
    """Call `check` with `found`, which once failed, and with as many drawn inputs, always the same.

    Fails if hypothesis could not draw that many.
    """
    for example in found:
        check(example)
    calls = 0

    def counted(example: Any) -> None:
        nonlocal calls
        calls += 1
        check(example)

    bounds = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    seed(0)(bounds(given(strategy)(counted)))()
    assert calls >= examples


def sizes(slow: int, few: int = 3) -> Any:
    """Parametrise `examples`: a few of the inputs, and in the slow suite all of them."""
    return pytest.mark.parametrize(
        "examples", [few, pytest.param(slow, marks=pytest.mark.slow)], ids=["few", "many"]
    )


@pytest.fixture(scope="session")
def fuzzed_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Run:
    """A small finished run whose files are changed, each time from the original."""
    plugins.load_all()  # Not in the time of the first answer.
    return zoo.finetune(
        photos,
        out=tmp_path_factory.mktemp("fuzzed") / "run",
        backbone=TINY,
        weights="none",
        image_size=32,
        train="probe",
        views=0,
        device="cpu",
    )


@pytest.fixture
def folder(fuzzed_run: zoo.Run, tmp_path: Path) -> Path:
    """A copy of its files."""
    return Path(shutil.copytree(fuzzed_run.path, tmp_path / "run"))
