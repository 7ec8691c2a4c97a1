"""bench/transfer.py: its figures, what it chooses by val, and the page. Timings are no tests."""

import json
import math

import numpy as np
import pytest
import transfer
import transfer_page
from sets import ImageSet
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

PEERS = ("Hugging Face Trainer", "timm recipe", "fastai")


def epoch(seconds, accuracy, loss=1.0):
    return {
        "seconds": seconds,
        "cpu_seconds": seconds,
        "val_accuracy": accuracy,
        "val_log_loss": loss,
    }


def a_record(tool, seed, accuracy, *, lr=None, seconds=8.0, image_set="photos", **more):
    test = {"accuracy": accuracy, "balanced_accuracy": accuracy, "log_loss": 0.5, "ece": 0.1}
    return {
        "tool": tool,
        "set": image_set,
        "classes": 2,
        "images": {"train": 20, "val": 10, "test": 40},
        "image_size": 96,
        "threads": 1,
        "versions": {"torch": "2.0"},
        "seed": seed,
        "lr": lr,
        "searched": False,
        "epochs": [epoch(seconds / 2, 0.6), epoch(seconds, 0.8)],
        "seconds": seconds,
        "cpu_seconds": seconds,
        "best_epoch": 2,
        "test": test,
        "quarter": {"epoch": 1, **test, "accuracy": 0.5},
        **more,
    }


@pytest.fixture
def records():
    """Three peers and three rows of zoo on one set, three seeds each."""
    found = [
        a_record(peer, seed, 0.8 + place / 100 + seed / 100, lr=0.002, seconds=8.0 + place)
        for place, peer in enumerate(PEERS)
        for seed in range(3)
    ]
    for seed in range(3):
        found.append(a_record("zoo", seed, 0.9 if seed else 0.7, seconds=4.0))
        found.append(a_record("zoo probe", seed, 0.75, seconds=1.0))
        found.append(a_record("zoo, a quarter of the time", seed, 0.8, seconds=2.0))
    searched = a_record("fastai", 0, 0.0, lr=0.008, searched=True)
    del searched["test"], searched["quarter"]
    searched["epochs"][-1] = epoch(10.0, 0.5, None)
    return [*found, searched]


@pytest.fixture
def photos():
    return ImageSet(
        name="photos",
        kind="made up",
        source="this test",
        licence="none",
        raw="nothing",
        image_size=96,
        sizes=(10, 5, 20),
        pictures=lambda raw: [],
        mirror_sensitive=True,
    )


def test_figures_by_hand():
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.0, 1.0]]
    found = transfer.figures(np.array(probabilities), np.array([0, 1, 0, 1]))
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.75
    # Bins: {0.9, 0.9} of which half is right, {0.6} right, {1.0} right.
    assert found["ece"] == pytest.approx((2 * 0.4 + 0.4 + 0.0) / 4)
    assert found["log_loss"] == pytest.approx(
        -(math.log(0.9) + math.log(0.1) + math.log(0.6) + math.log(1 - 1e-7)) / 4
    )


def test_figures_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.choice(5, 200, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    probabilities = rng.dirichlet(np.ones(5), 200)
    found = transfer.figures(probabilities, labels)
    told = probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, told))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, told))
    assert found["log_loss"] == pytest.approx(log_loss(labels, probabilities))


def test_what_is_not_finite_counts_as_knowing_nothing():
    found = transfer.figures(np.array([[np.nan, 1.0], [0.0, 1.0]]), np.array([1, 1]))
    assert found["accuracy"] == 0.5
    assert found["log_loss"] == pytest.approx(math.log(2) / 2, abs=1e-6)


def test_a_wrong_certainty_costs_no_more_than_the_clip():
    found = transfer.figures(np.array([[1.0, 0.0]]), np.array([1]))
    assert found["log_loss"] == pytest.approx(-math.log(1e-7))
    assert found["ece"] == 1.0


def test_the_best_epoch_is_by_accuracy_then_log_loss():
    epochs = [epoch(1, 0.5), epoch(2, 0.9, None), epoch(3, 0.9, 0.4), epoch(4, 0.9, 0.6)]
    assert transfer.best_epoch(epochs) == 2
    assert transfer.best_epoch(epochs, within=2.5) == 1
    assert transfer.best_epoch(epochs, within=0.5) == 0


@pytest.mark.parametrize(
    ("val", "tried", "best"),
    [
        ({1: 0.9, 2: 0.7, 3: 0.8}, [2, 3], 3),
        ({1: 0.7, 2: 0.9, 3: 0.8}, [2, 3, 1], 2),
        ({1: 0.95, 2: 0.9, 3: 0.8}, [2, 3, 1], 1),
        ({1: 0.7, 2: 0.8, 3: 0.9, 4: 0.85}, [2, 3, 4], 3),
        ({1: 0.7, 2: 0.9, 3: 0.8, 4: 0.95}, [2, 3, 1], 2),
        ({1: 0.7, 2: 0.8, 3: 0.85, 4: 0.9, 5: 0.95}, [2, 3, 4, 5], 5),
        ({1: 0.7, 2: 0.8, 3: 0.9, 4: 0.85, 5: 0.95}, [2, 3, 4], 3),
    ],
)
def test_the_rate_is_the_best_on_val(val, tried, best):
    asked = []

    def run(lr):
        asked.append(lr)
        return {"lr": lr, "epochs": [epoch(1, val[lr]), epoch(2, 0.1)]}

    assert transfer.search(sorted(val), run) == best
    assert asked == tried


def test_of_equal_rates_the_one_with_less_log_loss_is_chosen():
    found = [{"lr": lr, "epochs": [epoch(1, 0.9, loss)]} for lr, loss in ((1, 0.5), (2, 0.3))]
    assert transfer.best_rate(found) == 2


def test_the_watch_does_not_time_itself_and_takes_the_better_network(monkeypatch):
    now = iter([0.0, 10.0, 25.0, 30.0])
    monkeypatch.setattr(transfer.time, "perf_counter", lambda: next(now))
    watch = transfer.Watch()
    labels, right = np.array([0, 1]), np.eye(2)
    watch.epoch_of([(1 - right, {}), (right, {})], labels)
    watch.stop()
    assert watch.epochs[0]["seconds"] == 10.0
    assert watch.epochs[0]["val_accuracy"] == 1.0
    assert watch.seconds == 15.0


def test_a_record_replaces_the_one_with_its_key(tmp_path):
    file = tmp_path / "records.jsonl"
    for seed, accuracy in ((0, 0.5), (1, 0.6), (0, 0.7)):
        transfer.add(file, a_record("zoo", seed, accuracy))
    assert [(r["seed"], r["test"]["accuracy"]) for r in transfer.read(file)] == [(0, 0.7), (1, 0.6)]


def test_the_fastest_peer_is_of_that_set_and_no_search(records):
    records.append(a_record("fastai", 0, 0.1, lr=1, seconds=1.0, searched=True))
    records.append(a_record("fastai", 0, 0.1, lr=1, seconds=1.0, image_set="other"))
    assert transfer.fastest_peer(records, "photos") == 8.0


def test_the_page(tmp_path, records, photos):
    page = tmp_path / "transfer.md"
    page.write_text(f"Before.\n{transfer_page.START}\nold\n{transfer_page.END}\nAfter.\n")
    transfer_page.write(json.loads(json.dumps(records)), page, [photos])
    text = page.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "old" not in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    (photo_sets, accuracy, equal, quarter, *_) = [row for row in rows if row[:1] == ["photos"]]
    assert photo_sets[2:5] == ["2", "20 / 10 / 40", "96"]
    assert photo_sets[-1] == "mirroring misleads"
    assert accuracy[1:4] == ["81.0 ± 1.0", "82.0 ± 1.0", "83.0 ± 1.0"]
    assert equal[1:] == ["80.0", "60.0 (Hugging Face Trainer)", "83.3", "83.0 (fastai)", "2.5"]
    assert quarter[1:] == ["80.0", "50.0 (Hugging Face Trainer)", "83.0 (fastai)", "-3.0", "2"]
    (summary,) = [row for row in rows if row[:1] == ["zoo"]]
    # Seed 0 is 5 points below its probe.
    assert summary == ["zoo", "83.33", "1.00", "+0.3 (photos)", "4", "1 of 3", "0 of 3"]
    (fastai,) = [row for row in rows if row[:1] == ["fastai"]]
    assert fastai[-1] == "1 of 4"


def test_a_page_of_nothing_says_so(photos):
    assert "No set has been measured" in transfer_page.tables([], [photos])
