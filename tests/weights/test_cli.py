"""`zoo weights`."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import QUICK, TINY, zoo_
from tests.weights.test_places import says, state_dict  # noqa: F401 - says is a fixture
from zoo import plugins, weights

FLAGS = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items() if k != "weights"]


@pytest.fixture(autouse=True)
def _own_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def file(tmp_path):
    torch.save(state_dict(1), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.medium
def test_what_is_put_in_is_used_offline_said_in_the_plan_and_comes_out(file, photos):
    path = weights.added_path(TINY)
    added = zoo_("weights", "add", TINY, file)
    assert added.stdout.split() == [TINY, "1.44", "MB", str(path)]
    shown = zoo_("finetune", "--data", photos, "--dry-run", "--weights=pretrained", *FLAGS).stdout
    assert re.search(rf"^weights .*{file}.*{path}", shown, re.MULTILINE)
    zoo_("finetune", "--data", photos, "--out=run", "--weights=pretrained", *FLAGS)
    assert "zoo weights add" in Path("run/README.md").read_text()
    assert zoo_("weights", "remove", "test_efficientnet").stdout == f"deleted {path}\n"
    assert not path.exists()
    again = zoo_("weights", "remove", TINY, code=2)
    assert TINY in again.stderr


def test_a_file_that_does_not_fit_is_refused_in_one_message(file):
    refused = zoo_("weights", "add", "squeezenet1_1", file, code=2)
    assert str(file) in refused.stderr
    assert "torchvision/squeezenet1_1" in refused.stderr
    assert "Traceback" not in refused.output


def test_where_shows_every_place_in_order_and_marks_the_first_to_be_used(says, file):  # noqa: F811
    says(f"yield from (zoo.Weights(path='/nowhere/a.pth'), zoo.Weights(path={str(file)!r}))")
    shown = zoo_("weights", "where", TINY)
    lines = [line for line in shown.stdout.splitlines() if not line.startswith("      ")]
    assert lines == [
        f"{TINY}: 3 sources",
        "   1  /nowhere/a.pth",
        f"-> 2  {file}",
        "   3  Hugging Face hub, timm/test_efficientnet.r160_in1k",
    ]
    assert "plugin acme (zoo-acme 1.2)" in shown.stdout
    assert str(weights.added_path(TINY)) in shown.stderr
    zoo_("weights", "add", TINY, file)
    assert f"-> 1  {weights.added_path(TINY)}" in zoo_("weights", "where", TINY).stdout


def test_the_list_has_name_size_and_place_of_what_is_here(file):
    zoo_("weights", "add", TINY, file)
    listed = json.loads(zoo_("weights", "list", "--format", "json").stdout)
    by_name = {row["name"]: row for row in listed}
    packaged = {f"zoo/efficientnet_lite{n}" for n in range(3)}
    assert set(by_name) == {TINY, *packaged}
    assert by_name[TINY] == {
        "name": TINY,
        "bytes": weights.added_path(TINY).stat().st_size,
        "file": str(weights.added_path(TINY)),
        "by": by_name[TINY]["by"],
    }
    assert "zoo weights add" in by_name[TINY]["by"]
    table = zoo_("weights", "list", "test_eff")
    assert table.stdout.startswith(f"{TINY}  1.44 MB  {weights.added_path(TINY)}")
    assert table.stderr == "1 file, 1.44 MB in all\n"


def test_in_a_narrow_terminal_paths_are_printed_whole(file, monkeypatch):
    zoo_("weights", "add", TINY, file)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    lines = zoo_("weights", "list").stdout.splitlines()
    path = f"  {weights.added_path(TINY)}"
    (place,) = [n for n, line in enumerate(lines) if line.startswith(path)]
    assert lines[place - 1].split() == [TINY, "1.44", "MB"]
    assert len(lines) == 2 * 4


def test_an_added_file_whose_plugin_is_gone_is_listed_and_can_be_removed(tmp_path):
    path = weights.added_path("gone/net.a1")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert "gone/net.a1" in zoo_("weights", "list").stdout
    zoo_("weights", "remove", "gone/net.a1")
    assert not path.exists()


def test_verify_finds_a_flipped_byte_and_goes_on(file):
    zoo_("weights", "add", TINY, file)
    assert zoo_("weights", "verify", TINY).stdout.startswith(f"ok: {TINY} ")
    flip_a_byte(weights.added_path(TINY))
    shown = zoo_("weights", "verify", code=2)
    assert f"damaged: {TINY} " in shown.stdout
    assert "ok: zoo/efficientnet_lite0 " in shown.stdout
    assert "1 of 4 " in shown.stderr


def test_verify_checks_the_digits_that_torchvision_publishes(monkeypatch):
    path = weights.cache_path(plugins.get("squeezenet1_1").weights)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not what was published")
    shown = zoo_("weights", "verify", "squeezenet1_1", code=2)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    assert re.search(f"{actual}.* b8a52dc0", shown.stdout)


def test_verify_says_what_has_nothing_to_check_against(says, file):  # noqa: F811
    says(f"yield zoo.Weights(path={str(file)!r})")
    shown = zoo_("weights", "verify", TINY).stdout
    assert f"{TINY}  {file}" in shown
    assert not shown.startswith(("ok", "damaged"))


def test_fetch_goes_on_after_one_that_can_not_be_had(says, server, file):  # noqa: F811
    says(f"yield zoo.Weights(url='{server[0]}/tiny.pth')")
    shown = zoo_("weights", "fetch", "resnet18", "nope", TINY, code=2)
    (line,) = shown.stdout.splitlines()
    name, _, unit, path = line.split()
    assert (name, unit) == (TINY, "MB")
    assert Path(path).read_bytes() == file.read_bytes()
    for name in ("resnet18", "nope"):
        assert f"! {name}: " in shown.stderr
    assert re.search("Error: 2 of 3 .*: resnet18, nope\n$", shown.stderr)


def test_a_small_file_of_the_hub_has_no_sha256_to_check_against(tmp_path):
    """The hub names those by git's SHA-1, 40 digits."""
    repository = tmp_path / "hf" / "models--timm--test_efficientnet.r160_in1k"
    snapshot = repository / "snapshots" / ("a" * 40)
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "blobs" / ("b" * 40)).write_bytes(b"small")
    (snapshot / "pytorch_model.bin").symlink_to(repository / "blobs" / ("b" * 40))
    shown = zoo_("weights", "verify", TINY).stdout
    assert f"{TINY}  {snapshot}" in shown
    assert not shown.startswith(("ok", "damaged"))


HUB = """
import pathlib, sys
from click.testing import CliRunner
from zoo.cli import main
for args in sys.argv[1:]:
    if args == "flip":
        blob = pathlib.Path(listed).resolve()
        content = bytearray(blob.read_bytes())
        content[-5] ^= 1
        blob.write_bytes(content)
        continue
    result = CliRunner().invoke(main, ["weights", *args.split()])
    listed = result.stdout.strip().rpartition("  ")[2]
    print(result.exit_code, result.stdout, result.stderr)
"""


@pytest.mark.slow
def test_the_hubs_files_are_fetched_found_and_verified(hub):
    def run(*commands):
        done = subprocess.run(
            [sys.executable, "-c", HUB, *commands],
            env=hub.env,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    fetched = run(f"fetch {TINY}")
    assert fetched.startswith(f"0 {TINY}  1.44 MB  ")
    assert "models--timm--test_efficientnet.r160_in1k" in fetched
    hub.stop()
    shown = run(f"fetch {TINY}", f"verify {TINY}", f"list {TINY}", "flip", f"verify {TINY}")
    assert f"0 ok: {TINY} " in shown
    assert f"2 damaged: {TINY} " in shown


@pytest.mark.medium
def test_a_plugins_hub_repository_is_fetched_with_the_hubs_client(hub):
    code = (
        "import zoo, sys; from zoo.weights.retrieval import obtain\n"
        "w = zoo.Weights(hub='timm/test_efficientnet.r160_in1k')\n"
        "print(obtain(w))"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], env=hub.env, capture_output=True, text=True, check=True
        )
        assert Path(done.stdout.strip()).name == "model.safetensors"
        hub.stop()
