"""bench/compare.py: what it makes of the lines that tools print. Timings are no tests."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import page
import pytest
import runs
import tools
from photos import prepare_photos

from tests.conftest import make_photos

BENCH = Path(__file__).parents[1] / "bench"


def a_run(accuracies, *, per_epoch=10.0, start=5.0, images=100):
    """A run that trains half of the time."""
    points = tuple(
        runs.Point(
            t=start + per_epoch * n,
            images=images * n,
            train_seconds=per_epoch / 2 * n,
            val_accuracy=accuracy,
        )
        for n, accuracy in enumerate(accuracies, 1)
    )
    return runs.Run(points=points, seconds=points[-1].t + 1, peak_mb=1000.0)


@pytest.fixture
def results():
    """Three tools; the last isn't there."""
    about = {
        "data": {"name": "photos", "classes": 2, "train": 100, "val": 50},
        "processor": "an abacus",
        "cores": 2,
        "threads": 2,
        "allocator": False,
        "load": 0.25,
        "rounds": 3,
        "versions": {"zoo": "0.1"},
    }
    zoo_runs = [a_run([0.91, 0.95], per_epoch=p) for p in (10, 11, 12)]
    slow_runs = [a_run([0.85, 0.92], per_epoch=2 * p) for p in (10, 11, 12)]
    rows = [
        runs.Row(name="zoo finetune", settings="its own", learns=True, runs=zoo_runs),
        runs.Row(name="snail", settings="slow ones", learns=True, runs=slow_runs),
        runs.Row(name="ghost", settings="", learns=True, problem="not installed (ghost)"),
    ]
    return about, rows


def test_lines_of_the_protocol_are_found_among_others():
    points, peak_mb = runs.parse(
        [
            "loading...\n",
            '{"t": 1.5, "images": 10, "train_seconds": 1.0, "val_accuracy": 0.5}\n',
            "{'eval_loss': 3}\n",
            '{"t": 2.5, "images": 20, "train_seconds": 1.5, "val_accuracy": null}\n',
            '{"t": 2.6, "peak_mb": 12.5}\n',
        ]
    )
    assert [(p.t, p.images, p.val_accuracy) for p in points] == [(1.5, 10, 0.5), (2.5, 20, None)]
    assert peak_mb == 12.5


def test_a_process_that_fails_says_why(tmp_path):
    script = tmp_path / "peer.py"
    script.write_text("import nothing_of_that_name")
    with pytest.raises(runs.RunFailed, match="nothing_of_that_name"):
        runs.measure([str(script)], {})


def test_a_peer_reports_through_its_process(tmp_path):
    script = tmp_path / "peer.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(BENCH / 'peers')!r})\n"
        "import common\n"
        "common.report(images=3, train_seconds=0.5, val_accuracy=0.75)\n"
        "common.finish()\n"
    )
    run = runs.measure([str(script)], {})
    assert [(p.images, p.val_accuracy) for p in run.points] == [(3, 0.75)]
    assert 0 < run.points[0].t < run.seconds
    assert run.peak_mb > 1


def test_the_time_to_an_accuracy_is_of_the_first_report_of_it():
    run = a_run([0.8, 0.93, 0.91, 0.95])
    assert runs.seconds_to(run, 0.9) == 25
    assert runs.seconds_to(run, 0.95) == 45
    assert runs.seconds_to(run, 0.96) == math.inf
    assert runs.accuracy_after(run, 40) == 0.93
    assert runs.accuracy_after(run, 10) is None
    assert runs.images_per_second(run) == 20
    assert runs.seconds_per_epoch(run) == 10


def test_a_run_that_never_arrives_counts_as_the_slowest():
    row = runs.Row(
        name="a", settings="", learns=True, runs=[a_run([0.9]), a_run([0.5]), a_run([0.9])]
    )
    found = runs.spread(row, lambda run: runs.seconds_to(run, 0.9))
    assert (found.median, found.least, found.most) == (15, 15, math.inf)


def test_results_are_read_as_they_were_written(results, tmp_path):
    runs.write_results(tmp_path / "results.json", *results)
    assert runs.read_results(tmp_path / "results.json") == results


def test_tables_hold_medians_spreads_and_ratios(results):
    text = page.tables(*results)
    lines = {match[1]: match[0] for match in re.finditer(r"^\| ([\w ]+) \|.*$", text, re.M)}
    first, second = text.split("divided by zoo finetune's")
    assert "| zoo finetune | 16.0 (15.0 to 17.0) | 27.0 (25.0 to 29.0) |" in first
    assert "| snail | 49.0 (45.0 to 53.0) | never |" in first
    assert "accuracy after 50 s" in first
    assert "not installed (ghost)" in first
    assert "| snail | 3.06 | - |" in second
    assert lines["snail"].count("|") == lines["tool"].count("|")


def test_the_page_is_written_between_its_markers_and_can_be_written_again(results, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "performance.md"
    file.write_text(page.PAGE.read_text())
    before, _, rest = file.read_text().partition(page.START)
    page.render([results, ({**results[0], "allocator": True}, results[1])], file)
    once = file.read_text()
    assert once.startswith(before)
    assert once.endswith(rest.partition(page.END)[2])
    assert "zoo's allocator setting" in once
    page.render([results, ({**results[0], "allocator": True}, results[1])], file)
    assert file.read_text() == once
    drawn = file.with_suffix(".svg").read_text()
    assert "<svg" in drawn


def test_settings_are_chosen_on_photos_that_are_not_reported_on(tmp_path):
    data = make_photos(tmp_path / "photos", 10)
    photos = prepare_photos(data, tmp_path / "work")

    def files(folder):
        return {f.read_bytes() for f in folder.rglob("*.png")}

    train, val = files(photos.report / "train"), files(photos.report / "val")
    learn, pick = files(photos.pick / "train"), files(photos.pick / "val")
    assert train | val == files(data)
    assert not train & val
    assert not learn & pick
    assert learn | pick == train
    assert photos.counts == (24, 6, len(learn), len(pick))


def test_every_tool_has_its_script_and_its_row_in_the_page():
    text = page.PAGE.read_text()
    for tool in tools.TOOLS:
        assert (tools.PEERS / tool.script).is_file()
        assert f"| {tool.name.partition(',')[0]} |" in text


def test_a_row_that_finds_caches_comes_after_the_one_that_leaves_them():
    names = [tool.name for tool in tools.TOOLS]
    assert all(names.index(t.again) < names.index(t.name) for t in tools.TOOLS if t.again)


@pytest.mark.slow
def test_zoo_is_timed_by_the_lines_that_it_prints(split_photos, tmp_path):
    flags = [f"--data={split_photos}", "--backbone=timm/test_efficientnet", "--weights=none"]
    flags += ["--image-size=32", "--epochs=2", "--device=cpu"]
    environment = {"ZOO_HOME": str(tmp_path)}
    run = runs.measure([str(tools.PEERS / "zoo_cli.py"), *flags], environment)
    epochs = [p for p in run.points if p.images]
    assert [p.images for p in epochs[:2]] == [24, 48]
    assert 0 < epochs[0].t < epochs[1].t < run.seconds
    assert all(0 <= p.val_accuracy <= 1 for p in run.points)
    assert runs.images_per_second(run) > 0


def test_the_command_explains_itself():
    command = [sys.executable, str(BENCH / "compare.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--search" in shown
    assert json.dumps("docs/performance.md")[1:-1] in shown
