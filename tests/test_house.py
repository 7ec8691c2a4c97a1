"""The house stands as docs/design.md says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_upper_rooms_import_lower_ones_only():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


def test_no_file_of_the_project_has_grown_beyond_a_room():
    sizes = {p: len(p.read_text().splitlines()) for p in (ROOT / "zoo").rglob("*.py")}
    assert {str(p): n for p, n in sizes.items() if n > 300} == {}
