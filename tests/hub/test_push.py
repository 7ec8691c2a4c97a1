"""`zoo push` uploads a run in one commit, and nothing that is private; `zoo pull` gets it back."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

import zoo
from tests.hub.conftest import TOKEN, Repository
from tests.runs.forging import copy, forge
from zoo.cli import main
from zoo.export import ExportReport
from zoo.export.card import with_export
from zoo.recipe import change, dump_recipe
from zoo.runs.checkpoint_file import read_checkpoint, write_checkpoint

NAME = "acme/colours"
UPLOADED = {"README.md", "config.json", "metrics.csv", "model.safetensors", "recipe.toml"}


def zoo_(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    assert TOKEN not in result.output
    return result.output


@pytest.fixture
def folder(run, tmp_path) -> Path:
    return copy(run, tmp_path)


def test_a_dry_run_lists_what_would_be_uploaded_and_uploads_nothing(folder, hub):
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    shown = zoo_("push", folder, NAME, "--dry-run")
    for name in (*UPLOADED, "checkpoint", "predictions.parquet", "report.html", "private"):
        assert name in shown
    assert hub.repositories == {}
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before


def test_without_a_terminal_or_yes_nothing_is_uploaded(folder, hub):
    assert "--yes" in zoo_("push", folder, NAME, code=2)
    assert hub.repositories == {}


@pytest.mark.parametrize(("answer", "uploaded"), [("y", True), ("n", False), ("", False)])
def test_on_a_terminal_the_upload_is_confirmed(folder, hub, monkeypatch, capsys, answer, uploaded):
    pty = pytest.importorskip("pty")
    terminal, typed_in = pty.openpty()
    os.write(terminal, f"{answer}\n".encode())
    with os.fdopen(typed_in) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(SystemExit) as end:
            main(["push", str(folder), NAME])
    os.close(terminal)
    shown = capsys.readouterr()
    assert end.value.code == (0 if uploaded else 2)
    assert "Upload?" in shown.err
    assert "model.safetensors" in shown.out
    assert (hub.repositories.keys() == {NAME}) == uploaded


@pytest.mark.usefixtures("hub")
def test_a_dry_run_needs_no_hub(folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "private" not in zoo_("push", folder, NAME, "--dry-run")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    zoo_("push", folder, NAME, "--dry-run")


def test_a_run_is_uploaded_in_one_commit_and_comes_back_the_same(folder, run, hub, photos):
    zoo_("push", folder, NAME, "--yes", "--license", "mit", "--datasets", "acme/photos")
    assert hub.repositories[NAME].private
    assert len(hub.repositories[NAME].commits) == 2
    files = hub.files(NAME)
    assert files.keys() == UPLOADED
    zoo_("pull", NAME, "--out", "back")
    assert {f.name: f.read_bytes() for f in Path("back").iterdir()} == files
    tensors, uploaded = (load_file(f / "model.safetensors") for f in (folder, Path("back")))
    assert all(tensors[key].equal(uploaded[key]) for key in tensors.keys() | uploaded.keys())
    back = zoo.load("back")
    assert back.info.figures == run.info.figures
    images = sorted(photos.rglob("*.png"))
    assert [p.top for p in back.predict(images)] == [p.top for p in run.predict(images)]
    assert all(found.state != "wrong" for found in zoo.verify("back"))
    card = (Path("back") / "README.md").read_text()
    assert 'license: "mit"' in card
    assert 'datasets: ["acme/photos"]' in card
    assert f"zoo pull {NAME}" in card
    assert "license: " not in (folder / "README.md").read_text()


def test_the_card_lists_the_exports_of_the_run_without_their_files(folder, hub):
    card = folder / "README.md"
    report = ExportReport(
        format="onnx",
        file="/home/me/bugs.onnx",
        bytes=1_000_000,
        source="/home/me/photos",
        images=12,
        largest_difference=0.0,
        agreement=1.0,
        accuracy=0.5,
        accuracy_interval=(0.3, 0.7),
        run_accuracy=0.5,
        latency_ms=1.0,
        run_latency_ms=2.0,
        batch_size=8,
        images_per_second=10.0,
        run_images_per_second=5.0,
        device="cpu",
        notes=(),
    )
    card.write_text(with_export(card.read_text(), report))
    row = next(line for line in card.read_text().splitlines() if line.startswith("| bugs.onnx |"))
    zoo_("push", folder, NAME, "--yes")
    pushed = hub.files(NAME)["README.md"].decode()
    assert f"zoo pull {NAME}" in pushed
    assert pushed.count("## Exports") == pushed.count(row) == 1
    assert "not part of this repository" in pushed
    assert hub.files(NAME).keys() == UPLOADED
    # A run that was pulled can be exported and published again.
    zoo_("pull", NAME, "--out", "back")
    again = with_export((Path("back") / "README.md").read_text(), replace(report, file="b.onnx"))
    assert again.count(row) == again.count("| b.onnx |") == 1
    assert "not part of this repository" not in again


def test_no_path_and_no_image_of_this_machine_is_uploaded(folder, run, hub):
    forge(
        folder / "model.safetensors",
        history=json.dumps(["after epoch 1: train images gone: secret.png"]),
        weights_source=f"random, not {Path.home()}/w.pth",
    )
    data = Path(run.info.recipe.data)
    zoo_("push", folder, NAME, "--yes")
    names = [f.name for f in data.rglob("*.png")]
    for name, content in hub.files(NAME).items():
        for private in (str(data.parent), "secret.png", f"{Path.home()}/", *names):
            assert private.encode() not in content, (name, private)
    zoo_("pull", NAME, "--out", "back")
    assert zoo.load("back").info.recipe.data == data.name


def test_an_address_is_uploaded_as_its_name(folder, run, hub):
    recipe = change(run.info.recipe, test="https://host/private/photos.zip?key=SIGNED")
    forge(folder / "model.safetensors", recipe=dump_recipe(recipe))
    zoo_("push", folder, NAME, "--yes")
    for name, content in hub.files(NAME).items():
        assert b"SIGNED" not in content, name
    zoo_("pull", NAME, "--out", "back")
    assert zoo.load("back").info.recipe.test == "photos.zip"


@pytest.mark.filterwarnings("error")
def test_predictions_and_report_are_uploaded_if_asked_for(folder, hub):
    zoo_("push", folder, NAME, "--yes", "--with-predictions", "--with-report", "--public")
    assert hub.files(NAME).keys() == UPLOADED | {"predictions.parquet", "report.html"}
    assert not hub.repositories[NAME].private
    zoo_("push", folder, NAME, "--yes", code=2)  # It is public.
    zoo_("push", folder, NAME, "--yes", "--public", "--license", "mit")
    # Those of the earlier version belong to other weights.
    assert hub.files(NAME).keys() == UPLOADED
    assert len(hub.repositories[NAME].commits) == 3
    zoo_("pull", f"{NAME}@{hub.repositories[NAME].sha(1)}", "--out", "first")
    assert Path("first/report.html").exists()


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.medium
def test_libraries_load_the_repository(folder, hub, library, photos):
    zoo_("push", folder, NAME, "--yes")
    expected = load_file(folder / "model.safetensors")
    if library == "timm":
        import timm

        model = timm.create_model(f"hf-hub:{NAME}", pretrained=True)
        assert model.pretrained_cfg["label_names"] == ["blue", "green", "red"]
        found = model.state_dict()
    else:
        from transformers import AutoModelForImageClassification

        zoo_("pull", NAME, "--out", "back")
        model = AutoModelForImageClassification.from_pretrained("back")
        assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
        found = {k.removeprefix("timm_model."): v for k, v in model.state_dict().items()}
    assert all(found[key].equal(value) for key, value in expected.items())


def test_a_damaged_unfinished_or_missing_run_is_not_uploaded(folder, hub, tmp_path):
    zoo_("push", tmp_path / "nowhere", NAME, "--yes", code=2)
    about = read_checkpoint(folder).about
    write_checkpoint(folder, {}, {**about, "complete": False})
    zoo_("push", folder, NAME, "--yes", code=2)
    write_checkpoint(folder, {}, about)
    (folder / "extra.pkl").write_bytes(b"\x80\x04")
    assert "extra.pkl" in zoo_("push", folder, NAME, "--yes", code=2)
    assert hub.asked == []


def test_other_files_in_the_run_folder_stay_here(folder, hub):
    (folder / "notes.txt").write_text("mine")
    zoo_("push", folder, NAME, "--yes")
    assert "notes.txt" not in hub.files(NAME)


@pytest.mark.parametrize("name", ["colours", "acme/a/b", "acme/..", "acme/a b"])
def test_an_invalid_name_is_refused(folder, hub, name):
    zoo_("push", folder, name, "--yes", code=2)
    zoo_("pull", name, code=2)
    assert hub.asked == []


def test_a_repository_with_other_content_is_not_touched(folder, hub):
    hub.repositories[NAME] = Repository(commits=[{"README.md": b"", "model.bin": b"x"}])
    assert "model.bin" in zoo_("push", folder, NAME, "--yes", code=2)
    assert len(hub.repositories[NAME].commits) == 1
    hub.repositories[NAME] = Repository(commits=[{".gitattributes": b"", "LICENSE": b"x"}])
    zoo_("push", folder, NAME, "--yes")
    assert hub.files(NAME).keys() == UPLOADED | {".gitattributes", "LICENSE"}


def test_without_token_or_rights_or_network_nothing_is_uploaded(folder, hub, monkeypatch):
    zoo_("push", folder, "globex/colours", "--yes", code=2)
    hub.broken["/commit/"] = 403
    zoo_("push", folder, NAME, "--yes", code=2)
    assert hub.files(NAME) == {}
    hub.broken.clear()
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN" in zoo_("push", folder, NAME, "--yes", code=2)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    zoo_("push", folder, NAME, "--yes", code=2)
    assert hub.files(NAME) == {}


def test_a_full_disk_stops_before_anything_is_uploaded(folder, hub, monkeypatch):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    zoo_("push", folder, NAME, "--yes", code=2)
    assert hub.asked == []
