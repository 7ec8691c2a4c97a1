"""The parsers of what strangers wrote, with inputs that search for their branches."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.runs.forging import forge

SCRIPT = Path(__file__).with_name("guided.py")

RUNS = 20_000


def examples(target: str, run: Path, folder: Path) -> None:
    """Whole files to begin with."""
    if target in ("header", "model"):
        # Most of the header would be one long text, in which changes find nothing.
        forge(shutil.copy(run / "model.safetensors", folder / "model"), familiarity=None)
    elif target == "recipe":
        shutil.copy(run / "recipe.toml", folder / "recipe")
    else:
        picture = Image.effect_noise((20, 16), 60)
        for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000"):
            picture.save(folder / form, form)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris is not installed")
@pytest.mark.parametrize("target", ["header", "model", "recipe", "image"])
def test_no_input_that_finds_a_new_branch_hangs_or_crashes(target, run, tmp_path):
    corpus, faults = tmp_path / "corpus", tmp_path / "faults"
    corpus.mkdir()
    faults.mkdir()
    examples(target, run.path, corpus)
    given = len(list(corpus.iterdir()))
    limits = [f"-runs={RUNS}", "-timeout=5", "-rss_limit_mb=4096", "-seed=1", "-max_len=40000"]
    # Linux counts the most memory that a parent has used as used by its child; a shell between them
    # has used little.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    found = subprocess.run(
        [*shell, sys.executable, SCRIPT, target, *limits, f"-artifact_prefix={faults}/", corpus],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert list(faults.iterdir()) == []
    assert int(re.search(r"Done (\d+) runs", found.stderr)[1]) >= RUNS
    # Inputs are kept if they reach new branches: without coverage to guide it, there were none.
    assert len(list(corpus.iterdir())) >= given + 10
