"""`zoo pull` trusts nothing of a repository, and leaves nothing behind if it fails."""

import errno
import pickle
import shutil
from pathlib import Path

import pytest

from tests.hub.conftest import Repository
from tests.hub.test_push import NAME, UPLOADED, zoo_
from tests.runs.forging import put_together, take_apart


@pytest.fixture
def files(run, hub) -> dict[str, bytes]:
    """The files of a repository that holds the run, which are its only commit."""
    zoo_("push", run.path, NAME, "--yes")
    found = dict(hub.files(NAME))
    hub.repositories[NAME] = Repository(commits=[found])
    return found


def failed(*args: object) -> str:
    """A pull that fails, and leaves nothing."""
    before = sorted(Path().rglob("*"))
    shown = zoo_("pull", *args, code=2)
    assert sorted(Path().rglob("*")) == before
    return shown


@pytest.mark.usefixtures("files")
def test_runs_are_put_below_runs_under_the_next_free_name():
    zoo_("pull", NAME)
    zoo_("pull", NAME)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["colours", "colours-2"]
    assert {path.name for path in Path("runs/colours").iterdir()} == UPLOADED
    assert not [p for p in Path("runs/colours").iterdir() if p.is_symlink()]


@pytest.mark.usefixtures("files")
def test_a_folder_that_exists_is_not_overwritten():
    Path("used").mkdir()
    zoo_("pull", NAME, "--out", "used")
    failed(NAME, "--out", "used")


def test_only_files_of_a_run_are_downloaded(files, hub):
    files |= {
        "evil.py": b"print()",
        "pytorch_model.bin": pickle.dumps(1),
        "other.json": b"{}",
        "sub/config.json": b"{}",
    }
    hub.asked.clear()
    shown = zoo_("pull", NAME, "--out", "back")
    assert {path.name for path in Path("back").iterdir()} == UPLOADED
    assert "pytorch_model.bin" in shown
    assert not [path for path in hub.asked if "evil" in path or "other" in path or "bin" in path]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "recipe.toml"])
def test_a_file_that_was_changed_is_refused(files, name):
    content = bytearray(files[name])
    content[-3] ^= 1
    files[name] = bytes(content)
    assert name in failed(NAME, "--out", "back")


def test_code_that_a_configuration_names_is_refused(files):
    files["config.json"] = files["config.json"].replace(b"{", b'{"auto_map": {"A": "evil.A"},', 1)
    failed(NAME, "--out", "back")


def test_a_file_that_is_too_large_is_not_downloaded(files, hub):
    files["README.md"] = bytes(2**24 + 1)
    hub.asked.clear()
    failed(NAME, "--out", "back")
    assert not [path for path in hub.asked if "README" in path]


def test_a_repository_without_a_run_is_refused(files):
    del files["recipe.toml"]
    assert "recipe.toml" in failed(NAME)


def test_weights_of_another_network_are_refused(files):
    folder = Path("forged")
    folder.mkdir()
    (folder / "model").write_bytes(files["model.safetensors"])
    header, tensors = take_apart(folder / "model")
    header["__metadata__"]["class_names"] = '["a", "b", "c"]'
    files["model.safetensors"] = put_together(header, tensors)
    failed(NAME, "--out", "back")


def test_a_missing_repository_or_revision_is_named(files, hub, monkeypatch):
    assert "acme/nothing" in failed("acme/nothing")
    failed(f"{NAME}@v9")
    zoo_("pull", f"{NAME}@main", "--out", "at-main")
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN" in failed(NAME)  # It is private.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    failed(NAME)


@pytest.mark.usefixtures("files")
def test_an_interrupted_download_leaves_nothing(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.broken["resolve"] = 0
    failed(NAME, "--out", "deep/back")
    hub.broken["resolve"] = 403
    failed(NAME, "--out", "back")


def test_a_disk_that_is_too_small_is_noticed_before_the_model_is_downloaded(
    files, hub, monkeypatch
):
    usage = shutil.disk_usage(".")
    free = len(files["model.safetensors"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    hub.asked.clear()
    assert "no space" in failed(NAME, "--out", "back")
    assert not [path for path in hub.asked if "resolve" in path]


def test_the_model_needs_its_space_once(files, monkeypatch):
    usage, total = shutil.disk_usage("."), sum(map(len, files.values())) + 2**20

    def left(path):
        taken = sum(p.stat().st_size for p in Path().rglob("*.safetensors") if ".back." in str(p))
        return usage._replace(free=total - taken)

    monkeypatch.setattr(shutil, "disk_usage", left)
    zoo_("pull", NAME, "--out", "back")


@pytest.mark.usefixtures("files")
def test_a_full_disk_leaves_nothing(monkeypatch):
    replace = Path.replace

    def full(self, target):
        if Path(target).name == "metrics.csv":
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    assert "No space left" in failed(NAME, "--out", "back")
