"""Edited copies in train and val, which the features of a run's probe show."""

import re

import pytest
from PIL import ImageOps

import zoo
from tests.data.scenes import make_scenes, save, scene
from zoo.events import Note

#: zoo's own network, whose weights are installed with it: random ones would find copies too.
FIELDS = {
    "backbone": "efficientnet_lite0",
    "image_size": 64,
    "device": "cpu",
    "train": "probe",
    "workers": 0,
}


@pytest.fixture
def scenes(tmp_path):
    """Train and val of scenes, no two of which are the same."""
    make_scenes(tmp_path / "scenes" / "train", 8)
    make_scenes(tmp_path / "scenes" / "val", 4, first_seed=500)
    return tmp_path / "scenes"


def finetune(data, out, **fields):
    """(the run, its warnings, the text of its report)."""
    warnings = []

    def listen(event):
        if isinstance(event, Note) and event.warning:
            warnings.append(event.text)

    run = zoo.finetune(data, out=out, listen=listen, **{**FIELDS, **fields})
    return run, warnings, (run.path / "report.html").read_text()


@pytest.mark.medium
def test_mirrored_copies_and_crops_are_warned_of_and_in_the_report(scenes):
    _, warnings, report = finetune(scenes, "sound")
    assert not any(".png (of " in text for text in warnings)
    assert ".png (of " not in report
    save(ImageOps.mirror(scene(3)), scenes / "val" / "ants" / "turned.png")
    save(scene(1002).crop((8, 6, 152, 114)), scenes / "val" / "bees" / "part.png")
    # Found by hash, before training.
    save(scene(5).resize((80, 60)), scenes / "val" / "ants" / "small.png")
    _, warnings, report = finetune(scenes, "run")
    (warning,) = [text for text in warnings if ".png (of " in text]
    pairs = re.findall(r"(\w+/\w+\.png) \(of (?:train/)?(\w+/\w+\.png)\)", warning)
    assert sorted(pairs) == [("ants/turned.png", "ants/3.png"), ("bees/part.png", "bees/2.png")]
    assert warning.partition(";")[0] in report
    assert "small.png" not in warning
    assert any("small.png" in text for text in warnings)
    # The report is the same if it is made again.
    again = zoo.write_report("run", output="again.html").read_text()
    assert warning.partition(";")[0] in again


@pytest.mark.medium
def test_what_is_not_looked_for_is_said(scenes, monkeypatch):
    save(ImageOps.mirror(scene(3)), scenes / "val" / "ants" / "turned.png")
    monkeypatch.setattr("zoo.pipeline.phases.MOST_PRODUCTS", 10)
    said = []
    run = zoo.finetune(
        scenes, out="run", listen=lambda e: said.append(getattr(e, "text", "")), **FIELDS
    )
    assert any("crops and mirrored copies" in text for text in said)
    assert "turned.png (of" not in "".join(said)
    assert "crops and mirrored copies" in (run.path / "report.html").read_text()
