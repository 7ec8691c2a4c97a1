"""Packages import each other only as pyproject.toml's contracts allow."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_upper_packages_import_lower_ones_only():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout
