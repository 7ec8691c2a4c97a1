"""Several processes that don't see the same files: they end together, with one message."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import zoo
from tests.conftest import IN_TWO
from tests.pipeline.conftest import flags, start
from tests.pipeline.faults import contents
from zoo.errors import Stopped
from zoo.events import EpochEnd
from zoo.recipe import dump_recipe, make_recipe
from zoo.runs.scores import read_columns

#: Counts what each process does with images during a run, and writes it to RANK.json.
COUNTED = """
import json, os, sys
from collections import Counter
from pathlib import Path

import zoo
from zoo.data.check import examine
from zoo.data.decoded import DecodedImages
from zoo.features import extract
from zoo.pipeline import phases
from zoo.training import validation

done = Counter()


def counting(owner, name, of=lambda *args: 1):
    function = getattr(owner, name)

    def counted(*args, **kwargs):
        done[name] += of(*args)
        return function(*args, **kwargs)

    setattr(owner, name, counted)


counting(examine, "_examine")
counting(DecodedImages, "_made")
counting(extract, "fit_probe")
counting(phases, "train", of=lambda *args: done.update(before=done["_made"]) or 1)
counting(validation, "all_logits", of=lambda model, loader, *_: len(loader.sampler))
zoo.finetune(sys.argv[1], out="run", recipe="launched.toml")
Path(os.environ["RANK"] + ".json").write_text(json.dumps(done))
"""

#: Trains and evaluates; notes which images each process computes in the last step and afterwards.
LAST = """
import json, os, sys
from pathlib import Path

import zoo
from zoo.cli import main
from zoo.runs import scores

scores.eval_batch_size = lambda preprocess: 1  # So that both processes have some.
noted = {"last": [], "evaluated": []}
now = "last"
loader = scores.eval_loader


def noting(dataset, **options):
    samples = dataset.decoded.samples
    noted[now] += [str(samples[n].file or samples[n].name) for n in options["positions"]]
    return loader(dataset, **options)


scores.eval_loader = noting
zoo.finetune(sys.argv[1], out="run", recipe="launched.toml")
now = "evaluated"
main(["evaluate", "run", "--format", "json", "--output", "divided.json"], standalone_mode=False)
Path(os.environ["RANK"] + ".json").write_text(json.dumps(noted))
"""

#: The first process fits the probe for longer than processes wait for each other within a step.
LATE = """
import sys, time

import zoo
from zoo.pipeline import phases

train_probe = phases.train_probe


def late(*args, **options):
    time.sleep(40)
    return train_probe(*args, **options)


phases.train_probe = late
zoo.finetune(sys.argv[1], out="run", recipe="launched.toml")
"""

#: Runs command lines one after the other: of each process its own. Leaves of each how it ended and
#: what it said, for torch's launcher mixes that of all, and stops who has not ended yet.
LAUNCHED = """
import json, os, sys
from pathlib import Path

root, rank = Path.cwd(), os.environ["RANK"]
from zoo.cli import main
from zoo.training import train

validate = train.validate


def validate_then_remove(*args):
    found = validate(*args)
    for path in commands[int(rank)].get("vanishing", []):
        Path(path).unlink(missing_ok=True)
    return found


train.validate = validate_then_remove

for name, commands in json.loads(Path("commands.json").read_text()).items():
    folder = root / "ended" / name / rank
    folder.mkdir(parents=True)
    sys.stdout = sys.stderr = (folder / "said").open("w", buffering=1)
    os.chdir(commands[int(rank)]["cwd"])
    try:
        main(commands[int(rank)]["args"])
    except SystemExit as ended:
        (folder / "code").write_text(str(ended.code))
"""


def in_two(cases):
    """{case: (exit codes of both processes, all that they said)}; of each case both commands."""
    Path("launched.py").write_text(LAUNCHED)
    Path("commands.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [*IN_TWO, "launched.py"],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for name in cases:
        folders = [Path("ended", name, rank) for rank in "01"]
        found[name] = (
            [int((folder / "code").read_text()) for folder in folders],
            "".join((folder / "said").read_text() for folder in folders),
        )
    return found


def finetune(data, out, cwd=".", **fields):
    asked = {**start(train="finetune"), **fields, "data": str(data), "out": str(out)}
    return {"args": ["finetune", *flags(asked)], "cwd": str(Path(cwd).absolute())}


def stop_after_an_epoch(event):
    if isinstance(event, EpochEnd):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_processes_that_see_other_data_end_before_the_first_step(split_photos):
    def other(name):
        return Path(shutil.copytree(split_photos, name)).absolute()

    renamed, fewer, swapped, unseen = map(other, ("renamed", "fewer", "swapped", "unseen"))
    for split in ("train", "val"):
        (renamed / split / "red").rename(renamed / split / "amber")
    (fewer / "train" / "red" / "0.png").unlink()
    shutil.copy(swapped / "train/red/1.png", swapped / "train/red/0.png")
    shutil.rmtree(unseen)
    expected = {
        renamed: ["process 1 on ", "classes (has amber, lacks red)"],
        fewer: ["process 1 on ", "number of images (23 train and 12 val instead of 24 and 12)"],
        swapped: ["process 1 on ", "contents of images"],
        unseen: ["process 1 of 2: ", str(unseen)],
    }
    found = in_two(
        {data.name: [finetune(split_photos, "run"), finetune(data, "run")] for data in expected}
    )
    for data, parts in expected.items():
        codes, said = found[data.name]
        assert codes == [2, 2], said
        assert said.count("Error: ") == 1
        assert all(part in said for part in parts), said
    assert "contents" not in found["fewer"][1]
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_photo_that_vanishes_for_one_process_ends_all(split_photos):
    data = Path(shutil.copytree(split_photos, "data")).absolute()
    reds = [str(path) for path in (data / "train" / "red").iterdir()]
    fields = {"cache_size": 0.0, "epochs": 3, "workers": 2}
    found = in_two(
        {
            "training": [
                finetune(split_photos, "run", **fields),
                finetune(data, "run", **fields) | {"vanishing": reds},
            ]
        }
    )
    codes, said = found["training"]
    assert codes == [2, 2], said
    assert said.count("Error: process 1 of 2: unreadable image ") == 1
    assert said.count("kept the best so far in run: epoch 1") == 1


@pytest.mark.slow
def test_processes_that_do_not_share_the_run_folder_end_before_training(split_photos):
    fields = start(train="finetune", epochs=2)
    with pytest.raises(Stopped):
        zoo.finetune(split_photos, out="begun/run", listen=stop_after_an_epoch, **fields)
    zoo.finetune(split_photos, out="whole/run", **fields)
    Path("new").mkdir()
    Path("empty").mkdir()
    before = contents(Path("begun")), contents(Path("whole"))

    def case(one, other, **more):
        return [finetune(split_photos, "run", cwd, epochs=2, **more) for cwd in (one, other)]

    found = in_two(
        {
            # First, while the processes have no device yet.
            "found by the first": case("begun", "empty", resume="auto"),
            "found by the second": case("empty", "begun", resume="auto"),
            "other runs": case("begun", "whole", resume="auto"),
            "shared": case("whole", "whole", resume="auto"),
            "both new": case("new", "empty"),
        }
    )
    codes, said = found.pop("shared")
    assert codes == [0, 0], said
    assert said.count("complete already") == 1
    for codes, said in found.values():
        assert codes == [2, 2], said
        assert said.count("Error: ") == 1
        assert said.count("give a folder that all processes of a run see") == 1
        assert "process 1" in said
    assert contents(Path("new")) == contents(Path("empty")) == {}
    assert (contents(Path("begun")), contents(Path("whole"))) == before


@pytest.mark.slow
def test_processes_divide_what_is_done_with_images(split_photos):
    for photo in split_photos.rglob("*.png"):
        os.utime(photo, (1e9, 1e9))
    # One image a batch, so that both processes have some of the val split.
    fields = start(train="probe+finetune", epochs=2, interpolate=False)
    Path("launched.toml").write_text(dump_recipe(make_recipe(**fields)))
    one_image = "import zoo.training.batches as b\nb.eval_batch_size = lambda preprocess: 1\n"
    Path("counted.py").write_text(one_image + COUNTED)
    command = [*IN_TWO, "counted.py", str(split_photos)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(Path(f"{rank}.json").read_text()) for rank in "01")
    images = {split: len(list((split_photos / split).rglob("*.png"))) for split in ("train", "val")}
    total = sum(images.values())
    assert first["_examine"] == total
    assert "_examine" not in second
    assert "fit_probe" not in second
    assert second["_made"] == second["before"], "training reads what the first has decoded"
    assert first["all_logits"] == second["all_logits"] == 2 * images["val"] / 2
    assert zoo.load("run").evaluate().accuracy == zoo.load("run").info.val_accuracy


@pytest.mark.slow
def test_the_last_step_and_an_evaluation_are_divided_and_give_the_same(split_photos, monkeypatch):
    """Each image is computed once, and the files and figures are those of one process."""
    fields = start(train="finetune", epochs=1, global_batch=8, batch_size=None, lr=1e-3)
    Path("launched.toml").write_text(dump_recipe(make_recipe(**fields)))
    Path("counted.py").write_text(LAST)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*IN_TWO, "counted.py", str(split_photos)], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    shares = [json.loads(Path(f"{rank}.json").read_text()) for rank in "01"]
    for split in ("train", "val"):
        images = {path.name for path in (split_photos / split).rglob("*.png")}
        found = [name for share in shares for name in share["last"] if f"{split}/" in name]
        assert len(found) == len(set(found)) == len(list((split_photos / split).rglob("*.png")))
        assert {Path(name).name for name in found} == images
    assert all(share["last"] and share["evaluated"] for share in shares)
    assert sum(len(share["evaluated"]) for share in shares) == 12
    # Rounding depends on the images and threads that compute together.
    monkeypatch.setattr("zoo.runs.inference.eval_batch_size", lambda preprocess: 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = zoo.load("run").evaluate()
    torch.set_num_threads(threads)
    divided = json.loads(Path("divided.json").read_text())
    assert divided["accuracy"] == alone.accuracy
    assert divided["loss"] == alone.loss
    columns = read_columns(Path("run/predictions.parquet"))
    assert list(columns["name"]) == list(alone.rows["name"])
    for name in ("p_red", "p_blue", "probability"):
        assert columns[name].tolist() == alone.rows[name].tolist()
        assert [row[name] for row in divided["rows"]] == alone.rows[name].tolist()


@pytest.mark.slow
def test_processes_wait_longer_for_the_first_one_than_within_a_step(split_photos):
    fields = start(train="probe+finetune", collective_timeout="30s")
    Path("launched.toml").write_text(dump_recipe(make_recipe(**fields)))
    Path("late.py").write_text(LATE)
    done = subprocess.run(
        [*IN_TWO, "late.py", str(split_photos)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert zoo.load("run").info.recipe.collective_timeout == "30s"
