"""A run whose model card may be written to."""

import shutil

import pytest

import zoo


@pytest.fixture(scope="module")
def run(run, tmp_path_factory):
    """A copy of the finished run: exports are added to its model card."""
    folder = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(run.path, folder)
    return zoo.load(folder, device="cpu")
