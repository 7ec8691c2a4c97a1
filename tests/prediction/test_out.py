"""`zoo predict --out`: formats, resuming after a kill, refusals, all kinds of inputs."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from tests.conftest import IN_TWO, make_photos, zoo_
from zoo.prediction.inputs import find_inputs

FORMATS = ("jsonl", "csv", "parquet")


def predict(run, *arguments, **asked):
    return zoo_("predict", run.path, *arguments, **asked)


def left() -> set[str]:
    """What is in the current folder, besides zoo's own folders."""
    return {path.name for path in Path().iterdir()} - {"zoo", "torch"}


def rows_of(file: Path) -> list[dict]:
    """The rows of a file, whatever its format; empty cells are None."""
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    if file.suffix == ".parquet":
        return parquet.read_table(file).to_pylist()
    with file.open(encoding="utf-8", newline="") as lines:
        return [{k: v or None for k, v in row.items()} for row in csv.DictReader(lines)]


@pytest.fixture
def folder(split_photos, tmp_path):
    """12 images, one that can't be read, and a file that is none."""
    folder = shutil.copytree(split_photos / "val", tmp_path / "photos")
    (folder / "red" / "bad.jpg").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    return folder


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_has_a_row_for_each_image_with_all_probabilities(run, folder, form):
    out = Path(f"out.{form}")
    predict(run, folder, "--out", out)
    rows = rows_of(out)
    images = sorted(folder.rglob("*.[pj]*g"))
    assert [row["path"] for row in rows] == [*map(str, images), str(folder / "notes.txt")]
    expected = {str(p.path): p for p in run.predict(sorted(folder.rglob("*.png")), top_k=3)}
    for row in rows:
        found = expected.get(row["path"])
        if found is None:
            assert row["label"] is None
            assert row["error"]
            continue
        assert row["label"] == found.label
        assert not row.get("error")
        of_all = (
            row["probabilities"]
            if form == "jsonl"
            else {name: row[f"p_{name}"] for name in run.class_names}
        )
        assert {name: float(p) for name, p in of_all.items()} == pytest.approx(
            dict(found.top), abs=1e-4
        )
        assert float(row["distance"]) == pytest.approx(found.distance, rel=1e-3)
    assert left() == {out.name}


@pytest.mark.parametrize("form", FORMATS)
def test_top_k_names_the_best_classes(run, folder, form):
    out = Path(f"out.{form}")
    predict(run, folder / "blue", "--out", out, "--top-k", 2)
    for row in rows_of(out):
        if form == "jsonl":
            assert len(row["top"]) == 2
            assert row["top"][0]["label"] == row["label"]
        else:
            assert row["label_1"] == row["label"]
            assert row["label_2"] not in (None, row["label"])
            assert float(row["probability_1"]) >= float(row["probability_2"])
            assert "label_3" not in row


def test_parquet_has_types_that_pandas_reads(run, folder):
    predict(run, folder, "--out", "out.parquet")
    schema = parquet.read_schema("out.parquet")
    assert str(schema.field("p_red").type) == "float"
    assert str(schema.field("unsure").type) == "bool"
    assert json.loads(schema.metadata[b"class_names"]) == list(run.class_names)


@pytest.mark.parametrize("form", FORMATS)
def test_an_interrupted_file_is_continued_without_doubling_a_row(run, folder, monkeypatch, form):
    from zoo.runs import inference, read

    whole, out = Path(f"whole.{form}"), Path(f"out.{form}")
    predict(run, folder, "--out", whole)
    read_image = read.read_image
    eighth = sorted(folder.rglob("*.png"))[7]

    def interrupt(path, **kwargs):
        if path == eighth:
            raise KeyboardInterrupt
        return read_image(path, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(inference, "BATCH_SIZE", 2)
        patch.setattr(read, "read_image", interrupt)
        predict(run, folder, "--out", out, code=130)
    assert not out.exists()
    partial = Path(f".out.{form}.partial")
    assert len(partial.read_bytes().splitlines()) == 6
    with partial.open("ab") as file:
        file.write(b'{"path": "torn')
    assert "resume" in predict(run, folder, "--out", out, code=2).stderr
    predict(run, folder, "--out", out, "--resume")
    assert [row["path"] for row in rows_of(out)] == [row["path"] for row in rows_of(whole)]
    assert [row["label"] for row in rows_of(out)] == [row["label"] for row in rows_of(whole)]
    assert left() == {out.name, whole.name}


def test_what_differs_is_not_continued(run, folder):
    Path(".out.csv.partial").touch()
    Path(".out.csv.partial.json").write_text("{}")
    for options in ([], ["--top-k", "2"], ["--min-confidence", "0.9"]):
        refused = predict(run, folder, "--out", "out.csv", "--resume", *options, code=2)
        assert "out.csv.partial" in refused.stderr
    assert not Path("out.csv").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--out", "there.csv"],
        ["--out", "there.csv", "--resume"],
        ["--out", "a.xlsx"],
        ["--out", "nowhere/a.csv"],
        ["--out", "a.csv", "--format", "json"],
        ["--resume"],
        ["--out", "a.csv", "--engine", "nothing"],
        ["--out", "a.csv", "--workers", "0"],
    ],
)
def test_refusals_write_nothing(run, folder, arguments):
    Path("there.csv").write_text("mine")
    predict(run, folder, *arguments, code=2)
    assert Path("there.csv").read_text() == "mine"
    assert left() == {"there.csv"}


def test_progress_is_a_line_a_minute_without_a_terminal(run, folder, monkeypatch):
    assert "images/s" not in predict(run, folder, "--out", "a.csv").stderr
    monkeypatch.setattr("zoo.cli.progress.EVERY", 0.0)
    result = predict(run, folder, "--out", "b.csv")
    assert result.stderr.count("images/s") == 13
    assert "images/s" not in result.stdout


def test_only_unreadable_images_are_an_error(run, folder):
    predict(run, folder / "red" / "bad.jpg", "--out", "a.jsonl", code=2)


def test_a_pattern_with_two_stars_lists_the_images_of_folders_once(folder):
    assert (folder / "red" / "0.png").is_file()
    for pattern in ("**/r*", "**/red", "**/red/", "**/red/**"):
        found = [item.name for item in find_inputs([f"{folder}/{pattern}"])]
        assert found == list(map(str, sorted((folder / "red").iterdir()))), pattern
    everything = [item.name for item in find_inputs([f"{folder}/**"])]
    assert sorted(everything) == sorted(item.name for item in find_inputs([str(folder)]))


def test_a_row_without_a_path_is_a_row_with_an_error(run, folder):
    Path("a.csv").write_text(f"path,note\n{folder / 'red' / '0.png'},x\n,y\n")
    Path("a.jsonl").write_text(json.dumps({"path": str(folder / "red" / "0.png")}) + '\n{"x": 1}\n')
    for table in ("a.csv", "a.jsonl"):
        predict(run, table, "--out", f"{table}.parquet")
        rows = rows_of(Path(f"{table}.parquet"))
        assert [row["error"] is None for row in rows] == [True, False]
        assert "no path" in rows[1]["error"]


def test_a_byte_order_mark_is_not_part_of_a_name(folder):
    name = str(folder / "red" / "0.png")
    Path("names.txt").write_text(f"{name}\n{name}\n", encoding="utf-8-sig")
    assert [item.name for item in find_inputs(["@names.txt"])] == [name, name]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("launcher", "partial"),
    [
        ([sys.executable], ".out.jsonl.partial"),
        # Of two processes; the launcher passes a signal on, but not SIGKILL.
        pytest.param(IN_TWO, ".out.1-of-2.jsonl.partial", marks=pytest.mark.slow),
    ],
)
def test_a_killed_prediction_is_continued(run, tmp_path, launcher, partial):
    """kill -9 at any moment: each image has one row in the end, the one that it would have had."""
    folder = make_photos(tmp_path / "many", 100)
    command = [*launcher, "-m", "zoo", "predict", str(run.path), str(folder)]
    command += ["--out", "out.jsonl", "--batch-size", "4", "--device", "cpu", "--resume"]
    partial, seen = Path(partial), 0
    for _ in range(2):
        # A session of its own, so that the processes that a launcher starts are killed too.
        with subprocess.Popen(
            command, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            while process.poll() is None:
                lines = partial.read_bytes().count(b"\n") if partial.exists() else 0
                if lines > seen + 20:
                    os.killpg(process.pid, signal.SIGKILL)
                    seen = lines
                    break
                time.sleep(0.005)
    assert seen
    subprocess.run(command, check=True)
    assert left() == {"out.jsonl"}
    rows = rows_of(Path("out.jsonl"))
    images = sorted(folder.rglob("*.png"), key=lambda path: path.parts)
    assert [row["path"] for row in rows] == [str(path) for path in images]
    for row, found in zip(rows, run.stream(images), strict=True):
        assert row["label"] == found.label
        assert row["probability"] == pytest.approx(found.probability, abs=1e-4)


def test_inputs_are_files_folders_patterns_lists_and_tables(run, folder, tmp_path):
    red = sorted((folder / "red").glob("*.png"))
    Path("names.txt").write_text(f"{red[1]}\n\n{folder / 'blue'}\nnowhere.png\n")
    Path("table.csv").write_text(f"path,note\n{red[2]},x\n{red[3]},y\n")
    listed = find_inputs(
        [
            str(folder / "red" / "0.png"),
            str(folder / "**" / "1.png"),
            "@names.txt",
            "table.csv",
            "-",
            str(folder),
        ],
        stdin=[b"a\xff.png\r\n", bytes(red[0])],
    )
    blue = sorted((folder / "blue").iterdir())
    ones = sorted(folder.rglob("1.png"))
    whole = sorted(folder.rglob("*.[pj]*g"))
    names = [red[0], *ones, red[1], *blue, "nowhere.png", red[2], red[3]]
    names += [os.fsdecode(b"a\xff.png"), red[0], *whole, folder / "notes.txt"]
    assert [item.name for item in listed] == list(map(str, names))
    assert [bool(item.skipped) for item in listed] == [*[False] * (len(names) - 1), True]
    predict(run, "-", "table.csv", "--out", "a.parquet", stdin=f"{red[0]}\nnowhere.png\n")
    rows = rows_of(Path("a.parquet"))
    assert [row["error"] is None for row in rows] == [True, False, True, True]


def test_samples_of_a_plugins_source_are_classified(run, install, split_photos):
    photo = next(split_photos.rglob("*.png"))
    install(
        "zoo-drawer",
        "drawer",
        "zoo_drawer",
        f"""
        from pathlib import Path
        import zoo

        class Drawer:
            name, splits = "drawer", ("train",)

            def read(self, split):
                load = Path({str(photo)!r}).read_bytes
                samples = [zoo.Sample(name=f"drawer/{{n}}", labels=("x",), load=load)
                           for n in range(3)]
                return zoo.Part(name="drawer", samples=samples)

        @zoo.hookimpl
        def zoo_sources():
            return {{"drawer": lambda data: Drawer() if data == "drawer:" else None}}
        """,
    )
    predict(run, "drawer:", "--out", "a.jsonl")
    assert [row["path"] for row in rows_of(Path("a.jsonl"))] == ["drawer/0", "drawer/1", "drawer/2"]


@pytest.mark.medium
def test_memory_does_not_grow_with_the_number_of_images(run, split_photos):
    """A thousand images more take no more memory than their names."""
    photo = next((split_photos / "val").rglob("*.png"))
    code = (
        "import resource, sys; from zoo.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak(images: int) -> int:
        Path("names.txt").write_text(f"{photo}\n" * images)
        command = [sys.executable, "-c", code, "predict", str(run.path), "@names.txt"]
        command += ["--out", f"{images}.parquet", "--device", "cpu", "--engine", "torch"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout.split()[-1])

    # A decoded image has 3 kB here, a photo of the full size 9 kB: 2,000 would take 24 MB.
    assert peak(2500) - peak(500) < 12_000
