"""Recipes: whatever the TOML says, it is understood or refused in words."""

import json
import math
from pathlib import Path

from hypothesis import strategies as st

from tests.conftest import TINY
from tests.fuzz.conftest import fuzz, run_cli, sizes
from tests.fuzz.strategies import HOSTILE, mutated
from zoo.cli.words import flag_of
from zoo.recipe import Recipe, dump_recipe, make_recipe

VALUES = {
    name: HOSTILE | st.just(field.default) | st.sampled_from([1, 2, 0.1, "none", "light", "sgd"])
    for name, field in Recipe.model_fields.items()
}
KEYS = st.sampled_from(sorted(VALUES))

#: Fields that name files, whose names may be too long.
PLACES = ("val", "test", "teacher", "unlabelled", "weights", "backbone")


def to_toml(value: object) -> str:
    """As TOML, as far as TOML has it; JSON's text is TOML's for all that comes here."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)} = {to_toml(v)}' for k, v in value.items())}}}"
    return '""' if value is None else json.dumps(value)


@st.composite
def tables(draw: st.DrawFn) -> str:
    """A recipe of some fields, rightly or wrongly named and filled."""
    lines = []
    for key in draw(st.lists(KEYS, min_size=1, max_size=6, unique=True)):
        value = draw(VALUES[key])
        name = draw(st.sampled_from([key, key, key, key, f"{key}s", f"x.{key}", f'"{key}"']))
        lines.append(f"{name} = {to_toml(value)}")
    return "\n".join(lines)


def refused_or_without_data(text: str | bytes) -> None:
    """A recipe is read before the data folder is looked for, which is not there."""
    content = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    Path("r.toml").write_bytes(content)
    answer = run_cli(
        ["finetune", "--recipe", "r.toml", "--data", "nowhere", "--backbone", TINY, "--dry-run"]
    )
    assert answer.code == 2
    about_recipe = "recipe r.toml" in answer.err or "recipe:" in answer.err
    understood = "data folder nowhere does not exist" in answer.err
    # A recipe may be understood and ask for what this machine or backbone lacks.
    lacking = any(
        word in answer.err
        for word in (
            "can't be built for",
            "freeze",
            "run folder",
            "image_size",
            "options of backbone",
            "--optimizer",
            "no engine",
            "no loss",
            "no transform",
            "engine ",
        )
    )
    assert about_recipe or understood or lacking, answer.err


FOUND = [
    "seed = 0x" + "f" * 9000,
    "epochs = " + "9" * 5000,
    "a" + ".a" * 20_000 + " = 1",
    "a = " + "[" * 20_000,
    "a = " + "[" * 500 + "]" * 500,
    'data = "\\u0000"',
    'loss = " "',
    'transform = " "',
    'weights = "~nobody/x"',
    "\n".join(f"k{n} = {n}" for n in range(3000)),
    b"\xff\xfe",
    b"\xef\xbb\xbfepochs = 1",
    "",
]


@sizes(1500)
def test_tables_of_any_fields_and_values(examples):
    fuzz(refused_or_without_data, tables(), examples, FOUND)


@sizes(1200)
def test_recipes_with_changed_bytes(examples):
    real = dump_recipe(make_recipe(backbone=TINY, lr=0.01, freeze=2, unfreeze_epoch=[2, 3]), "Hi")
    fuzz(refused_or_without_data, mutated(real.encode()), examples)


@sizes(600)
def test_flags_of_any_value(examples):
    def check(pair: tuple[str, object]) -> None:
        key, value = pair
        flag = f"{flag_of(key)}={value}"
        run_cli(["finetune", "--backbone", TINY, "--data=nowhere", "--dry-run", flag])

    fuzz(check, st.tuples(KEYS.filter(lambda k: k not in ("data",)), HOSTILE), examples)


@sizes(200)
def test_plans_of_recipes_that_are_understood(examples, photos):
    """With data and no weights: the plan is printed or something refused; nothing is written."""

    def check(text: str) -> None:
        Path("r.toml").write_text(text, errors="surrogatepass")
        command = ["finetune", "--recipe", "r.toml", "--data", photos, "--backbone", TINY]
        answer = run_cli([*command, "--weights=none", "--image-size=32", "--dry-run"])
        assert (answer.code == 0) == ("dry run: nothing was trained or written" in answer.out)
        assert not Path("runs").exists()

    fuzz(check, tables(), examples, [f'{name} = "{"x" * 300}"' for name in PLACES])
