"""Run folders: whatever a file in one says, every command answers, and no change goes unnoticed."""

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz.conftest import fuzz, run_cli, sizes
from tests.fuzz.strategies import changed, mutated
from tests.runs.forging import MODEL, put_together, say_the_same, take_apart, with_sums


@pytest.fixture
def image(photos) -> Path:
    return photos / "red" / "0.png"


@sizes(700)
def test_model_files_with_changed_bytes_are_refused(examples, folder, image):
    """Of the header, where all that is parsed lies, and of the tensors."""
    original = (folder / MODEL).read_bytes()
    end = 8 + int.from_bytes(original[:8], "little")
    tail = original[end:]
    anywhere = mutated(original[:end]).map(lambda head: head + tail)
    anywhere |= mutated(tail[:4096]).map(lambda head: original[:end] + head + tail[4096:])

    def check(content: bytes) -> None:
        (folder / MODEL).write_bytes(content)
        codes = {run_cli(["verify", folder]).code, run_cli(["predict", folder, image]).code}
        assert codes == {2} or say_the_same(content, original)

    fuzz(check, anywhere, examples)


@st.composite
def headers(draw, header: dict) -> dict:
    """A header with something else in its metadata, or about a tensor."""
    details = dict(header["__metadata__"])
    if not draw(st.integers(0, 3)):
        return {
            **draw(
                changed({k: header[k] for k in header if k != "__metadata__"}).filter(
                    lambda value: isinstance(value, dict)
                )
            ),
            "__metadata__": details,
        }
    key = draw(st.sampled_from(["class_names", "preprocess", "versions", "epoch", "val_metrics"]))
    value = draw(changed(json.loads(details[key])))
    details[key] = draw(st.sampled_from([json.dumps, str]))(value)
    return {**header, "__metadata__": details}


@pytest.mark.medium
@sizes(1000)
def test_model_files_whose_sums_are_right_and_whose_contents_are_hostile(examples, folder, image):
    header, tensors = take_apart(folder / MODEL)

    def check(header: dict) -> None:
        (folder / MODEL).write_bytes(put_together(with_sums(header, tensors), tensors))
        predicted = run_cli(["predict", folder, image, "--format", "json"])
        if predicted.code == 0:
            (answer,) = json.loads(predicted.out)
            assert 0 <= answer["probability"] <= 1
            assert answer["label"] in json.loads(header["__metadata__"]["class_names"])
        run_cli(["verify", folder / MODEL])

    fuzz(check, headers(header), examples)


@sizes(300)
@pytest.mark.medium
def test_recipes_and_backbones_in_the_metadata(examples, folder, image):
    header, tensors = take_apart(folder / MODEL)
    details = header["__metadata__"]

    def check(change: tuple[str, bytes]) -> None:
        key, content = change
        own = {**header, "__metadata__": {**details, key: content.decode(errors="replace")}}
        (folder / MODEL).write_bytes(put_together(with_sums(own, tensors), tensors))
        run_cli(["evaluate", folder])
        run_cli(["predict", folder, image, "--format", "csv"])

    strategy = st.sampled_from(["recipe", "backbone", "val_sha256", "weights_source"]).flatmap(
        lambda key: st.tuples(st.just(key), mutated(details[key].encode()))
    )
    demo = ("recipe", b"")  # Of other classes than the run's.
    fuzz(check, strategy, examples, [demo])


@sizes(700)
def test_config_json_of_other_values_and_bytes(examples, folder):
    file = folder / "config.json"
    original = json.loads(file.read_text())

    def check(content: bytes) -> None:
        file.write_bytes(content)
        try:
            same = json.loads(content) == original
        except (ValueError, RecursionError):
            same = False
        answer = run_cli(["verify", folder, "--format", "json"])
        (found,) = (f for f in json.loads(answer.out)[0]["findings"] if f["file"] == "config.json")
        # A key that comes twice may leave Python with the same value; it is refused all the same.
        assert same or found["state"] == "wrong", found

    values = changed(original).map(lambda value: json.dumps(value).encode())
    fuzz(check, values | mutated(file.read_bytes()), examples, [b"[" * 10**5, b"\xff", b""])


@sizes(700)
def test_metrics_csv_with_changed_bytes(examples, folder):
    file = folder / "metrics.csv"

    def check(content: bytes) -> None:
        file.write_bytes(content)
        answer = run_cli(["verify", folder])
        assert "metrics.csv" in answer.out

    found = [b'"', b"\0", b"a,a\n", b"epoch,val_accuracy\n0," + b"9" * 200_000, b"\r\r\n"]
    fuzz(check, mutated(file.read_bytes()), examples, found)


@sizes(400)
def test_recipe_toml_of_a_run_with_changed_bytes(examples, folder):
    file = folder / "recipe.toml"

    def check(content: bytes) -> None:
        file.write_bytes(content)
        run_cli(["verify", folder])
        run_cli(["finetune", "--recipe", file, "--data", "nowhere", "--dry-run"])

    fuzz(check, mutated(file.read_bytes()), examples)


@sizes(300)
@pytest.mark.medium
def test_names_of_backbones_runs_and_files(examples, folder):
    letters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])  # As in argv.
    names = st.text(letters, max_size=50) | st.sampled_from(
        ["[", "*" * 40, "*x" * 40, "timm/", "~nobody", "-", "..", "a/b/c", "timm/[!", "\udcff"]
    )

    def check(name: str) -> None:
        run_cli(["backbones", "--", name], longest=10**6)
        run_cli(["show", "--", f"torchvision/{name}"])
        run_cli(["predict", "--", name, name])
        run_cli(["verify", "--", name], longest=10**6)
        run_cli(["weights", "list", "--", name])

    fuzz(check, names, examples)
