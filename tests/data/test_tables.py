"""CSV and Parquet tables as data: what a row says, several labels, groups, and a run of each."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import parquet
from safetensors.torch import load_file

import zoo
from tests.conftest import COLOURS, QUICK, save_photo, zoo_
from tests.data.reading import of_kind
from zoo.data.sources import open_source
from zoo.data.split import read_labelled, read_splits
from zoo.errors import DataError, RecipeError, RunError
from zoo.events import ignore
from zoo.runs.read import read_info
from zoo.runs.write import write_model
from zoo.weights.header import read_header


def read(table, **options):
    return read_splits(open_source(table), **{"val_split": 0.25, "seed": 0, **options})


def write(folder: Path, rows, header=("path", "label"), name="table.csv", delimiter=","):
    file = folder / name
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, delimiter=delimiter).writerows([header, *rows])
    return file


@pytest.fixture
def images(tmp_path):
    """Sixteen photos each of two colours, in one folder."""
    for colour in ("red", "green"):
        for n in range(16):
            save_photo(tmp_path / "img" / f"{colour}{n}.png", COLOURS[colour], n)
    return tmp_path


def named(images):
    return [(f"img/{c}{n}.png", c) for c in ("red", "green") for n in range(16)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_rows_are_images_with_labels(images, delimiter):
    splits = read(write(images, named(images), delimiter=delimiter))
    assert splits.class_names == ("green", "red")
    assert splits.counts(splits.train) == [12, 12]
    assert splits.counts(splits.val) == [4, 4]
    assert {sample.labels for sample in splits.val} == {("red",), ("green",)}


def test_a_column_says_the_split(images):
    rows = [
        (path, label, ("train", "Validation", "test")[n % 3])
        for n, (path, label) in enumerate(named(images))
    ]
    table = write(images, rows, ("path", "label", "split"))
    splits = read(table)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (11, 11, 10)
    tested = read_labelled(open_source(table), ["test"], ["green", "red"])
    assert len(tested.val) == 10


def test_a_group_is_in_one_split(images):
    rows = [
        (path, label, f"{label}-{n % 16 // 4}") for n, (path, label) in enumerate(named(images))
    ]
    splits = read(write(images, rows, ("path", "label", "group")))
    groups = [{sample.group for sample in split} for split in (splits.train, splits.val)]
    assert not groups[0] & groups[1]
    assert splits.counts(splits.val) == [4, 4]


def test_several_labels_are_in_a_cell_or_in_a_column_each(images):
    both = [
        (path, f"{label}|round" if n % 2 else label)
        for n, (path, label) in enumerate(named(images))
    ]
    cells = read(write(images, both))
    names = ("red", "green", "round")
    each = [(path, *(int(name in label.split("|")) for name in names)) for path, label in both]
    columns = read(write(images, each, ("path", *names)))
    assert cells.class_names == columns.class_names == ("green", "red", "round")
    found = [{s.name: set(s.labels) for s in (*each.train, *each.val)} for each in (cells, columns)]
    assert found[0] == found[1]
    assert found[0]["img/red1.png"] == {"red", "round"}


def test_rows_of_one_path_are_one_image(images):
    rows = [*named(images), ("img/red0.png", "round"), ("img/red1.png", "round")]
    splits = read(write(images, rows))
    (image,) = [s for s in (*splits.train, *splits.val) if s.name == "img/red0.png"]
    assert image.labels == ("red", "round")
    notes = of_kind("note", splits.issues)
    assert any("2 rows" in reason for _, reason in notes)


def test_what_is_left_out_of_a_table_is_said(images):
    more = [("img/red99.png", "red"), ("img/red3.png.txt", "red"), ("img/x.png", "")]
    rows = [(*row, "7") for row in (*named(images), *more)]
    splits = read(write(images, rows, ("path", "label", "width")))
    unreadable = [Path(name).name for name, _ in of_kind("unreadable", splits.issues)]
    assert unreadable == ["red99.png", "red3.png.txt"]
    skipped = " ".join(reason for _, reason in of_kind("skipped", splits.issues))
    assert ": 1" in skipped
    assert ": width" in skipped


def test_images_of_no_class_are_kept_where_labels_are_asked_for_one_by_one(images):
    single = write(images, [*named(images), ("img/x.png", "")])
    save_photo(images / "img/x.png", (9, 9, 9), 0)
    for table, task in ((single, "multi-label"), (one_hot(images), "auto")):
        splits = read_splits(open_source(table, task=task), val_split=0.25, seed=0)
        assert [s.labels for s in (*splits.train, *splits.val) if s.name == "img/x.png"] == [()]


def one_hot(images):
    rows = [(path, int(label == "red"), int(label == "green")) for path, label in named(images)]
    return write(images, [*rows, ("img/x.png", 0, 0)], ("path", "red", "green"), name="hot.csv")


def test_an_image_of_several_labels_is_one_image(images):
    rows = [
        (path, "red|green" if n % 2 else label, "val" if n % 4 == 0 or n == 1 else "train")
        for n, (path, label) in enumerate(named(images))
    ]
    table = write(images, rows, ("path", "label", "split"))
    found = json.loads(zoo_("data", "check", table, "--format", "json", code=1).stdout)["findings"]
    (few,) = [each for each in found if each["kind"] == "few-val-images"]
    assert few["count"] == 9


def test_parquet_is_read_as_csv_is(images):
    import pyarrow
    from pyarrow import parquet

    paths, labels = zip(*named(images), strict=True)
    lists = pyarrow.table({"path": paths, "labels": [[label, "all"] for label in labels]})
    parquet.write_table(lists, images / "table.parquet")
    splits = read(images / "table.parquet")
    assert splits.class_names == ("all", "green", "red")
    (images / "table.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"table\.parquet"):
        read(images / "table.parquet")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "header.*path.*label"),
        ("a,b\n1,2\n", "header.*path.*label"),
        ("path,label\n", "path.*label"),
        ("path,label\nx.png\n", "line 2: 1 .* 2 "),
        ("path,label\n,red\n", "line 2: .*path"),
        ("path,label,split\nx.png,red,dev\n", "'dev'.*train.*val.*test"),
        ("path,red,blue\nx.png,1,often\n", "line 2: blue .*'often'"),
        ("path,path,label\nx,y,z\n", "'path'"),
        ('path,label\n"x.png,red\n', ""),
        ("path,label\nx.png,r\xe9d\n", "UTF-8"),
        ("path,label,split\nx.png,a,train\nx.png,a,val\n", "line 3: .*split"),
    ],
)
def test_a_table_that_can_not_be_understood_is_an_error(tmp_path, text, named):
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=rf"t\.csv.*{named}"):
        read(tmp_path / "t.csv")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Photos of one colour, of two halves, and of none of the three; a table of them."""
    root = tmp_path_factory.mktemp("scenes")
    rows = []
    names = list(COLOURS)
    for n in range(48):
        chosen = [name for bit, name in enumerate(names) if n % 8 >> bit & 1]
        halves = [COLOURS[name] for name in chosen] or [(128, 128, 128)]
        for part, colour in enumerate(halves):
            save_photo(root / f"part{part}.png", colour, n)
        stack(root / f"{n}.png", [root / f"part{part}.png" for part in range(len(halves))])
        rows.append((f"{n}.png", "|".join(chosen)))
    return write(root, rows, name="scenes.csv")


def stack(file, parts):
    from PIL import Image

    pictures = [Image.open(part) for part in parts]
    whole = Image.new("RGB", (64, 48 * len(pictures)))
    for n, picture in enumerate(pictures):
        whole.paste(picture, (0, 48 * n))
    whole.save(file)


@pytest.fixture(scope="module")
def multi(scenes, tmp_path_factory):
    fields = {**QUICK, "epochs": 3, "train": "probe+finetune"}
    out = tmp_path_factory.mktemp("runs") / "multi"
    # Pictures of the same colours are so similar that they are warned of.
    return zoo.finetune(scenes, out=out, listen=ignore, **fields)


def test_a_multi_label_run_from_a_table(multi, scenes):
    assert multi.info.task == "multi-label"
    assert multi.info.recipe.metric == "map"
    assert multi.class_names == tuple(sorted(COLOURS))
    evaluated = multi.evaluate()
    assert evaluated.metrics["map"] == pytest.approx(multi.info.score)
    assert evaluated.confusion == ()
    assert multi.info.score > 0.6
    header = (multi.path / "metrics.csv").read_text().splitlines()[0]
    assert header.startswith("epoch,train_loss,train_accuracy,val_loss,val_map,val_f1,val_accuracy")
    assert json.loads((multi.path / "config.json").read_text())["problem_type"] == (
        "multi_label_classification"
    )
    assert all(finding.state == "ok" for finding in zoo.verify(multi.path))


def test_what_a_multi_label_run_predicts(multi, scenes):
    image = scenes.with_name("7.png")
    (found,) = multi.predict(image, threshold=0.0)
    assert set(found.labels) == set(COLOURS)
    assert multi.predict(image, threshold=1.0)[0].labels == ()
    probabilities = [p for _, p in found.top]
    assert probabilities == sorted(probabilities, reverse=True)
    command = ["predict", str(multi.path), str(image), "--threshold", "0", "--format"]
    said = zoo_(*command, "csv")
    assert said.output.splitlines()[0] == "path,labels,unfamiliar"
    assert set(said.output.splitlines()[1].split(",")[1].split("|")) == set(COLOURS)
    (entry,) = json.loads(zoo_(*command, "json").output)
    assert entry["labels"] == [label for label, _ in found.top]
    table = zoo_("evaluate", str(multi.path))
    assert "mAP" in table.output


def test_a_multi_label_run_has_a_threshold_for_each_label(multi, scenes):
    info = read_info(multi.path / "model.safetensors")
    assert info.thresholds == multi.info.thresholds
    assert len(info.thresholds) == len(COLOURS)
    assert any(each != 0.5 for each in info.thresholds)
    image = scenes.with_name("7.png")
    (found,) = multi.predict(image)
    of_class = dict(zip(multi.class_names, info.thresholds, strict=True))
    assert found.labels == tuple(name for name, p in found.top if p >= of_class[name])
    card, report = ((multi.path / name).read_text() for name in ("README.md", "report.html"))
    assert "| class | train | val | threshold |" in card
    for each in info.thresholds:
        assert f"| {each} |" in card
    assert ">threshold</th>" in report
    rows = parquet.read_table(multi.path / "predictions.parquet").to_pylist()
    for row in rows:
        expected = {name for name in COLOURS if row[f"p_{name}"] >= of_class[name]}
        assert set(row["predicted"]) == expected
        assert row["correct"] == (expected == set(row["label"]))


@pytest.mark.medium
def test_another_threshold_can_be_asked_for(multi, scenes):
    low = replace(multi, info=replace(multi.info, thresholds=(1e-4,) * 3))
    assert len(low.predict(scenes.with_name("0.png"))[0].labels) == 3
    assert low.evaluate(threshold=0.5).metrics == multi.evaluate(threshold=0.5).metrics
    every = low.evaluate()
    assert all(each.recall == 1 for each in every.classes)
    assert every.metrics["map"] == multi.evaluate().metrics["map"]
    args = ("evaluate", multi.path, "--threshold", "0.0001", "--format", "json")
    told = json.loads(zoo_(*args).output)
    assert told["metrics"] == pytest.approx(every.metrics)
    for wrong in (-0.1, 1.5):
        with pytest.raises(DataError):
            multi.predict(scenes.with_name("0.png"), threshold=wrong)
        with pytest.raises(DataError):
            multi.evaluate(threshold=wrong)


def test_a_run_of_an_earlier_version_has_a_threshold_of_a_half(multi, scenes, tmp_path):
    shutil.copytree(multi.path, tmp_path / "old")
    file = tmp_path / "old" / "model.safetensors"
    write_model(file.parent, load_file(file), replace(multi.info, thresholds=()))
    assert "thresholds" not in read_header(file).metadata
    old = zoo.load(file)
    assert old.info.thresholds == ()
    (found,) = old.predict(scenes.with_name("7.png"))
    assert found.labels == tuple(name for name, p in found.top if p >= 0.5)
    assert old.evaluate().metrics == multi.evaluate(threshold=0.5).metrics


@pytest.mark.parametrize("thresholds", [(0.5,), (0.5, 0.5, 1.0), (0.5, 0.5, 0.0)])
def test_thresholds_of_a_file_are_checked(multi, tmp_path, thresholds):
    file = multi.path / "model.safetensors"
    write_model(tmp_path, load_file(file), replace(multi.info, thresholds=thresholds))
    with pytest.raises(RunError):
        zoo.load(tmp_path / "model.safetensors")


def test_the_rows_of_evaluate_have_lists_of_labels(multi):
    assert multi.info.figures["val"].main == "map"
    written = parquet.read_table(multi.path / "predictions.parquet").to_pylist()
    evaluate = ["evaluate", str(multi.path)]
    told = json.loads(zoo_(*evaluate, "--format", "json").output)
    for row, other in zip(told["rows"], written, strict=True):
        # The probe's own figures are from its features, which round otherwise than the network.
        numbers = {name: value for name, value in other.items() if isinstance(value, float)}
        assert {name: row[name] for name in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-5)
        assert {**row, **numbers} == other
    text = zoo_(*evaluate, "--format", "csv").output
    cells = [row["label"] for row in csv.DictReader(text.splitlines())]
    assert cells == ["|".join(row["label"]) for row in written]
    assert any("|" in cell for cell in cells)


def test_a_table_in_two_runs_and_resumed_is_the_same_data(multi, scenes):
    again = zoo.resume(multi.path)
    assert again.info == multi.info


def test_a_task_that_does_not_fit_the_data_is_refused(scenes, photos):
    with pytest.raises(RecipeError, match=r"balanced-accuracy .*multi-label"):
        zoo.finetune(scenes, metric="balanced-accuracy", **QUICK)
    with pytest.raises(RecipeError, match=r"map .*single-label"):
        zoo.finetune(photos, metric="map", **QUICK)


def test_check_takes_a_table(scenes, images):
    rows = [*named(images), ("img/copy.png", "green")]
    (images / "img/copy.png").write_bytes((images / "img/red0.png").read_bytes())
    report = zoo.check_data(write(images, rows))
    assert report.counts == {"": {"green": 17, "red": 16}}
    assert "label-conflict" in {finding.kind for finding in report.findings}
    assert "--fix-to" in zoo_("data", "check", scenes, "--fix-to", "x", code=2).output
    assert not Path("x").exists()
