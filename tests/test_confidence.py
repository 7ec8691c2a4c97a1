"""bench/confidence.py and bench/shift.py: records are what runs predict, pages what records say."""

import argparse

import confidence
import pytest
import shift
from transfer import read

import zoo
from tests.conftest import QUICK, make_photos
from zoo import plugins
from zoo.features.pretrained import load_pretrained
from zoo.recipe import make_recipe

RECIPE = {name: QUICK[name] for name in ("backbone", "weights", "image_size")}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets of three colours."""
    root = tmp_path_factory.mktemp("sets")
    for number, name in enumerate(("letters", "digits")):
        for n, (split, images) in enumerate((("train", 8), ("val", 8), ("test", 12))):
            make_photos(root / name / split, images, first_seed=100 * n + 10_000 * number)
    return root


@pytest.mark.medium
def test_a_record_is_what_the_run_predicts(sets, tmp_path, monkeypatch):
    probe = confidence.Kind(name="probe", fields={"train": "probe", **RECIPE})
    monkeypatch.setattr(confidence, "PROBE", probe)
    monkeypatch.setattr(confidence, "MAX_ERRORS", (0.001, 0.5))
    monkeypatch.setattr(confidence, "COVERAGES", (0.7, 0.999))
    args = argparse.Namespace(
        sets=sets,
        runs=tmp_path / "runs",
        set=[],
        seeds=[0],
        fine_tune=False,
        few=False,
        again=False,
        records=tmp_path / "records.jsonl",
    )
    confidence.measure(args)
    records = read(args.records)
    assert [record["set"] for record in records] == ["letters", "digits"]
    for record in records:
        run = zoo.load(tmp_path / "runs" / f"{record['set']} probe 0")
        files = sorted((sets / record["set"] / "test").glob("*/*"))
        told = run.predict(files, max_error=0.5, set_coverage=0.7)
        labels = [file.parent.name for file in files]
        right = [p.label == label for p, label in zip(told, labels, strict=True)]
        wrong = [not p.unsure and not ok for p, ok in zip(told, right, strict=True)]
        covered = [label in p.label_set for p, label in zip(told, labels, strict=True)]
        assert record["accuracy"] == pytest.approx(sum(right) / 36, abs=1e-6)
        assert record["max_error"] == {
            "0.001": None,
            "0.5": {"answers": sum(not p.unsure for p in told), "wrong": sum(wrong)},
        }
        assert record["set_coverage"]["0.999"] is None
        found = record["set_coverage"]["0.7"]
        assert found["coverage"] == pytest.approx(sum(covered) / 36, abs=1e-6)
        assert found["size"] == pytest.approx(sum(len(p.label_set) for p in told) / 36, abs=1e-4)
        assert record["false_alarms"] == pytest.approx(
            sum(not p.familiar for p in told) / 36, abs=1e-6
        )
        metrics = run.info.figures["test"].metrics
        assert record["with"]["log_loss"] == pytest.approx(metrics["log_loss"].value, abs=1e-5)
        assert record["with"]["ece"] == pytest.approx(metrics["ece"].value, abs=1e-5)
        assert record["without"]["log_loss"] != record["with"]["log_loss"]
        (other,) = {"letters", "digits"} - {record["set"]}
        assert list(record["unfamiliar"]["others"]) == [other]
    # All is recorded: nothing is measured again, without its runs.
    args.runs = tmp_path / "none"
    confidence.measure(args)
    assert not args.runs.exists()


def test_a_few_images_of_each_class_are_copied(sets, tmp_path):
    confidence.copy_some(sets / "letters" / "train", tmp_path / "few", 5, seed=1)
    assert sorted(len(list(f.iterdir())) for f in (tmp_path / "few").iterdir()) == [5, 5, 5]


def test_sets_of_the_same_photos_are_not_unfamiliar():
    assert list(confidence.unlike("few", ["few", "rooms", "digits"])) == ["digits"]


def a_record(tool, name, *, wrong):
    told = {"log_loss": 0.5, "ece": 0.04, "mistakes": 10, "confident": 2}
    return {
        "tool": tool,
        "set": name,
        "seed": 0,
        "date": "2026-11-26",
        "held_out": 80,
        "test": 100,
        "accuracy": 0.9,
        "temperature": 1.5,
        "without": told,
        "with": {**told, "log_loss": 0.4, "ece": 0.05, "confident": 1},
        "max_error": {"0.05": None, "0.1": {"answers": 50, "wrong": wrong}},
        "set_coverage": {
            "0.9": {"coverage": 0.88, "size": 1.25},
            "0.95": {"coverage": 0.97, "size": 1.5},
        },
        "false_alarms": 0.04,
        "unfamiliar": {
            "uniform noise": 1.0,
            "normal noise": 0.5,
            "blanks": 0.75,
            "others": {"tiny": 0.9, "trash": 1.0},
        },
    }


def rows_of(text):
    return [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]


def test_the_page_of_confidence(tmp_path):
    page = tmp_path / "confidence.md"
    parts = ("calibration", "thresholds", "unfamiliar")
    page.write_text(
        "".join(
            f"Before {what}.\n<!-- confidence.py writes {what} from here -->\n\nstale\n"
            "<!-- to here -->\n"
            for what in parts
        )
    )
    records = [
        a_record("probe", "letters", wrong=5),
        a_record("probe", "digits", wrong=6),
        a_record("fine-tuned", "digits", wrong=1),
        a_record("fine-tuned, 5 a class", "digits", wrong=1),
    ]
    confidence.write(records, page)
    text = page.read_text()
    assert "stale" not in text
    assert all(f"Before {what}.\n" in text for what in parts)
    rows = rows_of(text)
    calibrated, thresholds, unfamiliar = [row for row in rows if row[0] == "probe, digits"]
    assert calibrated[1:] == [
        *("80", "90.0%", "1.50", "0.500", "0.400", "4.0", "5.0"),
        "2 / 1 of 10",
    ]
    assert thresholds[3:] == ["refused", "50% / 12.0%", "88.0% / 1.25", "97.0% / 1.50"]
    assert unfamiliar[2:] == ["4.0%", "100%", "50%", "75%", "95.0% (2 sets)", "tiny 90%"]
    # Runs on a few images are only in the first table; sets are in the order of sets.py.
    whole = ["fine-tuned, digits", "probe, letters", "probe, digits"]
    first = [whole[0], "fine-tuned, 5 a class, digits, seed 0", *whole[1:]]
    named = [row[0] for row in rows if row[0] not in ("run", "---")]
    assert named == [*first, *whole, *whole]
    # Exactly the promised rate does not exceed it.
    assert "a threshold on 2, of which 1 exceed it on test: digits (12.0%: 6 of 50)" in text
    confidence.write(records, page)
    assert page.read_text() == text


@pytest.mark.parametrize("there", ["", "<!-- shift.py writes from here -->\n"])
def test_a_page_without_markers_is_not_written(tmp_path, there):
    page = tmp_path / "splits.md"
    page.write_text(there)
    with pytest.raises(LookupError):
        shift.write([], page)
    assert page.read_text() == there


@pytest.mark.medium
def test_shifts_of_a_set(sets, tmp_path):
    pretrained = load_pretrained(plugins.get(QUICK["backbone"]), make_recipe(None, **RECIPE))
    found = shift.of_set(pretrained, sets / "letters", images=24, splits=2)
    assert (found["val"], found["test"]) == (24, 24)
    assert set(found["shifts"]) == {shift.AS_IT_IS, *shift.EDITS}
    assert len(found["random"]) == 2
    # Brightness is all that these images are about.
    assert found["shifts"]["brightness x 0.6"]["p"] < 0.01
    assert found["shifts"][shift.AS_IT_IS]["p"] > 0.01
    page = tmp_path / "splits.md"
    page.write_text(f"Before.\n{shift.START}\nstale\n<!-- to here -->\nAfter.\n")
    shift.write([found], page)
    rows = {row[0]: row for row in rows_of(page.read_text())}
    brightness = [*rows["set"]].index("brightness x 0.6")
    assert rows["letters"][brightness].startswith("**")
    assert not rows["letters"][2].startswith("**")
    assert rows["warned of"][brightness] == "1 of 1"
    assert rows["warned of"][2] == "0 of 1"
