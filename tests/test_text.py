"""Names that others chose are harmless wherever they are shown."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest

import zoo
from tests.conftest import QUICK, zoo_
from tests.runs.forging import MODEL, copy, forge
from zoo.cli.words import echo_json
from zoo.io.text import clip, markdown, printable, spreadsheet_cell

#: What terminals obey: clear the screen, set the title, direction overrides, a C1 control sequence.
NASTY = ["\x1b[2J\x1b]0;title\x07red", "blue\u202etxt.exe\u2066", "\x9b31mgreen\r\n! fine"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ants", "ants"),
        ("été 日本 ñ \U0001f41c", "été 日本 ñ \U0001f41c"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("narrow\u202fspace\xa0", "narrow\u202fspace\xa0"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc\rd\x00", r"a\nb\tc\rd\x00"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u202egnp.exe\u2069", r"\u202egnp.exe\u2069"),
        ("\u2028\u2029\ufeff\u200f", r"\u2028\u2029\ufeff\u200f"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_python_writes_it(text, shown):
    assert printable(text) == shown
    assert printable(text, lines=True) == shown.replace(r"\n", "\n").replace(r"\t", "\t")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1"])
def test_a_cell_that_a_spreadsheet_would_compute_is_text(text):
    assert spreadsheet_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["\t=1", "\r=1", "\n@x"])
def test_a_formula_behind_a_control_character_begins_with_a_backslash(text):
    assert spreadsheet_cell(text).startswith("\\")


def test_other_cells_stay_as_they_are():
    for text in ("", "ants", "a=b", "10 - 3", 'quo"te, comma'):
        assert spreadsheet_cell(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[click](javascript:alert(1))",
        "![x](https://tracker/pixel)",
        "a | b",
        "`code` **bold** _it_ ~~gone~~ $x$",
        "&lt;b&gt; &#60;",
        "https://evil.example www.evil.example mail@evil.example",
        "line\n# heading",
        "@everyone",
    ],
)
def test_markup_in_a_name_is_shown_and_not_followed(text):
    escaped = markdown(text)
    assert "\n" not in escaped
    # Nothing that Markdown reads as its own is left without a backslash before it.
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>\[\]`*_|&~$:@]", escaped)
    assert "www." not in escaped
    assert re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", escaped) == printable(text)


def test_a_long_text_keeps_its_ends():
    assert clip("short") == "short"
    assert len(clip("x" * 10**6)) <= 200
    assert clip("a" + "x" * 1000 + "b")[0] == "a"
    assert clip("a" + "x" * 1000 + "b")[-1] == "b"


def test_json_is_exact_and_harmless(capsys):
    echo_json({"names": [*NASTY, "\u2028\x7f"]})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"names": [*NASTY, "\u2028\x7f"]}
    assert harmless(printed)


def harmless(output: str) -> bool:
    return printable(output.encode(errors="backslashreplace").decode(), lines=True) == output


@pytest.fixture
def nasty(run, tmp_path) -> Path:
    folder = copy(run, tmp_path)
    forge(folder / MODEL, class_names=json.dumps(NASTY))
    return folder


@pytest.mark.medium
def test_class_and_file_names_reach_no_terminal_as_they_are(nasty, photos, tmp_path):
    root = tmp_path / "data"
    for name, old in zip(NASTY, ("red", "blue", "green"), strict=True):
        shutil.copytree(photos / old, root / name)
    (root / NASTY[0] / "\x1b[31m.png").write_bytes(b"no image")
    image = root / NASTY[0] / "0.png"
    table = zoo_("predict", nasty, image)
    assert table.stdout.count("\n") == 1
    outputs = [
        table,
        zoo_("predict", nasty, root),
        zoo_("predict", nasty, image, "--format", "csv"),
        zoo_("predict", nasty, image, "--format", "json"),
        zoo_("evaluate", nasty, "--data", root),
        zoo_("evaluate", nasty, "--data", root, "--format", "json"),
        zoo_("verify", nasty, code=2),
        zoo_("predict", nasty, tmp_path / "\x1b[31mnowhere", code=2),
        zoo_("predict", nasty, image, "--\x1b[31m", code=2),
        zoo_("finetune", "--data", root, "--out", "out", *flags()),
        zoo_("finetune", "--backbone", "\x1b[31m", code=2),
    ]
    for result in outputs:
        assert harmless(result.stdout)
        assert harmless(result.stderr)
    predicted = json.loads(outputs[3].stdout)[0]
    assert predicted["path"] == str(image)
    assert predicted["label"] in NASTY
    assert zoo.load("out").class_names == tuple(sorted(NASTY))


def flags() -> list[str]:
    return [f"--{k.replace('_', '-')}={v}" for k, v in {**QUICK, "train": "probe"}.items()]


def test_no_cell_of_predicts_csv_is_a_formula(run, photos, tmp_path):
    folder = copy(run, tmp_path)
    names = ["=cmd|'/C calc'!A0", "@SUM(1)", "-2+3"]
    forge(folder / MODEL, class_names=json.dumps(names))
    shutil.copy(photos / "red" / "0.png", "=HYPERLINK(1).png")
    text = zoo_("predict", folder, "=HYPERLINK(1).png", "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["path"] == "'=HYPERLINK(1).png"
    assert row["label"] in [f"'{name}" for name in names]
    assert 0 <= float(row["probability"]) <= 1


@pytest.mark.medium
def test_the_model_card_shows_names_and_obeys_none(photos, tmp_path):
    names = ["<img src=x>", "[a](http:)", "b | c\n# d"]
    root = tmp_path / "data"
    for name, old in zip(names, ("red", "blue", "green"), strict=True):
        shutil.copytree(photos / old, root / name)
    folder = tmp_path / "run\n    zoo evil"
    zoo.finetune(root, out=folder, **{**QUICK, "train": "probe"})
    card = (folder / "README.md").read_text()
    assert r"| \<img src=x\> | 8 | 2 |" in card
    assert r"| \[a\](http\:) | 8 | 2 |" in card
    assert r"| b \| c\\n# d | 8 | 2 |" in card
    assert "\n    zoo evil" not in card
