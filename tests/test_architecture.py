"""Packages import each other only as pyproject.toml's contracts allow; only the CLI words flags."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

FLAG = re.compile(r"(?<![\w-])--[a-z]")

#: A whole command, which can be pasted into a shell.
COMMAND = re.compile(
    r"zoo (finetune|tune|evaluate|export|data check)( ([A-Z_]+|\{\}|--[a-z-]+|recipe\.toml))*"
)


def test_upper_packages_import_lower_ones_only():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


def texts(file: Path) -> list[tuple[int, str]]:
    """Line and text of each string in a module, docstrings too; {} for what an f-string inserts."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            values = [
                each.value if isinstance(each, ast.Constant) else "{}" for each in node.values
            ]
            found.append((node.lineno, "".join(map(str, values))))
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
        ):
            found.append((node.lineno, node.value))
    return found


def test_only_the_command_line_words_flags():
    """Elsewhere settings are named as in Python; hook docstrings say which flag calls a hook."""
    core = [
        file
        for file in (ROOT / "zoo").rglob("*.py")
        if ROOT / "zoo" / "cli" not in file.parents and file != ROOT / "zoo" / "hookspecs.py"
    ]
    assert len(core) > 100
    worded = [
        f"{file.relative_to(ROOT)}:{line}: {text}"
        for file in core
        for line, text in texts(file)
        if FLAG.search(COMMAND.sub("", text))
    ]
    assert not worded, "\n".join(worded)


def test_only_tasks_know_which_kinds_of_task_there_are():
    """A new task needs no change elsewhere, but for its name in recipes and cells of tables."""
    branch = re.compile(r"(\bis|==|!=) (not )?(SINGLE_LABEL|MULTI_LABEL|\"(single|multi)-label\")")
    found = {
        file.relative_to(ROOT / "zoo").as_posix()
        for file in (ROOT / "zoo").rglob("*.py")
        if branch.search(file.read_text(encoding="utf-8"))
    }
    assert found == {"data/sources/table.py"}
