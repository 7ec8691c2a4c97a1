"""bench/distill.py: records are what runs predict, the page what records say."""

import argparse

import distill
import pytest
from transfer import read

import zoo
from tests.conftest import QUICK, make_photos

FIELDS = {name: value for name, value in QUICK.items() if name != "device"}


def record(name: str, seed: int, teacher: int, alone: int, taught: int, p: float) -> dict:
    return {
        "tool": "distillation",
        "set": name,
        "seed": seed,
        "date": "2026-11-27",
        "machine": "a CPU",
        "teacher": [teacher, 100],
        "alone": [alone, 100],
        "taught": [taught, 100],
        "p": p,
        "ms": {"teacher": 8.0, "student": 2.0},
    }


@pytest.mark.medium
def test_a_record_is_what_the_runs_predict(tmp_path, monkeypatch):
    for n, (split, images) in enumerate((("train", 6), ("val", 4), ("test", 5))):
        make_photos(tmp_path / "sets" / "letters" / split, images, first_seed=100 * n)
    monkeypatch.setattr(distill, "TEACHER", {**FIELDS, "train": "probe", "views": 0})
    monkeypatch.setattr(distill, "STUDENT", {**FIELDS, "train": "finetune", "image_size": 24})
    args = argparse.Namespace(
        sets=tmp_path / "sets",
        runs=tmp_path / "runs",
        set=[],
        seeds=[0],
        labelled=3,
        device="cpu",
        again=False,
        records=tmp_path / "records.jsonl",
    )
    distill.measure(args)
    (found,) = read(args.records)
    files = sorted((tmp_path / "sets" / "letters" / "test").glob("*/*"))
    for name in ("teacher", "alone", "taught"):
        run = zoo.load(tmp_path / "runs" / f"letters 3 0 {name}")
        told = [each.label for each in run.predict(files)]
        right = sum(label == file.parent.name for label, file in zip(told, files, strict=True))
        assert found[name] == [right, 15]
        assert bool(run.info.teacher) == (name == "taught")
        assert sum(run.info.counts["train"]) == 9
    assert found["ms"]["teacher"] > 0
    distill.measure(args)
    assert read(args.records) == [found]


def test_the_page_says_what_was_gained_and_what_is_left_of_the_accuracy(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n{distill.MARKER}\n\nstale\n<!-- to here -->\nAfter.\n")
    records = [
        record("letters", 0, 90, 80, 89, 0.01),
        record("letters", 1, 92, 84, 87, 0.4),
        record("digits", 0, 90, 85, 80, 0.3),
    ]
    distill.write(records, page)
    text = page.read_text()
    assert "stale" not in text
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    (letters,) = [line for line in text.splitlines() if line.startswith("| letters")]
    assert "| 2 | 100 | 91.0 (90.0 to 92.0) | 82.0 (80.0 to 84.0) |" in letters
    assert "| +6.0 (+3.0 to +9.0) | 96.7% |" in letters
    (digits,) = [line for line in text.splitlines() if line.startswith("| digits")]
    assert "| 1 | 100 | 90.0 | 85.0 | 80.0 | -5.0 | 88.9% |" in digits
    assert "+0.5 points" in text
    assert "better in 1 and worse in 0 (" in text
    assert "25% of the teacher's time" in text
    assert "on 0 of 2 sets" in text
