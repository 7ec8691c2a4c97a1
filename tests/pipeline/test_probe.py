"""A run that is a probe, or begins with one: what its file and metrics then hold."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo
from tests.conftest import IN_TWO, QUICK, uncalibrated, zoo_
from tests.pipeline.conftest import flags, hear, rows, sha256, start, state
from zoo import cache
from zoo.errors import RecipeError, TrainingError
from zoo.features.probe import fit_probe
from zoo.recipe import dump_recipe, make_recipe
from zoo.weights import read_state_dict

HEAD = {"classifier.weight", "classifier.bias"}


def features_of(run, split):
    """(features (N, C), labels) of a run's images by the network in its file, and its classes."""
    found = []
    model = run.model
    hook = model.classifier.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    labels = []
    for label, name in enumerate(run.class_names):
        for photo in sorted(Path(run.info.recipe.data, split, name).iterdir()):
            run.predict(photo)
            labels.append(label)
    hook.remove()
    return torch.cat(found), torch.tensor(labels)


@pytest.mark.medium
def test_the_head_is_the_probes_and_all_else_as_it_was(split_photos):
    fields = start(train="probe")
    before = read_state_dict(Path(fields["weights"]))
    run, _, _ = hear(split_photos, "run", **fields)
    after = state(run)
    assert {name for name in after if not torch.equal(after[name], before[name])} == HEAD
    features, labels = features_of(run, "train")
    assert len(features) == 24
    probe = fit_probe(features, labels, 3)
    expected = probe.logits(features)
    found = features @ after["classifier.weight"].T + after["classifier.bias"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * float(expected.abs().max()))


@pytest.mark.parametrize("train", ["probe", "probe+finetune"])
@pytest.mark.slow
def test_its_row_says_what_evaluate_finds(split_photos, train):
    run, _, _ = hear(split_photos, "run", **start(train=train, epochs=2, lr=1e-5))
    found = rows(run)
    assert [row["epoch"] for row in found] == ([0] if train == "probe" else [0, 1, 2])
    assert found[0]["lr_backbone"] == found[0]["lr_head"] == 0
    kept = found[run.info.epoch]
    evaluated = uncalibrated(run).evaluate()
    assert evaluated.accuracy == run.info.val_accuracy == kept["val_accuracy"]
    assert evaluated.loss == pytest.approx(kept["val_loss"], abs=1e-5)
    assert max(row["val_accuracy"] for row in found) == run.info.val_accuracy


@pytest.mark.medium
def test_a_probe_beats_chance_by_far_and_fine_tuning_starts_from_it(split_photos):
    probe, _, _ = hear(split_photos, "probe", **start(train="probe"))
    assert probe.info.val_accuracy > 0.9
    both, _, _ = hear(split_photos, "both", **start(train="probe+finetune", lr=1e-7))
    assert rows(both)[0] == rows(probe)[0]
    torch.testing.assert_close(state(both), state(probe), rtol=0, atol=1e-4)


@pytest.mark.medium
@pytest.mark.parametrize(("fields", "views"), [({}, 6), ({"views": 2}, 2)])
def test_fine_tuning_draws_new_views_each_epoch_unless_it_is_told_how_many(
    split_photos, fields, views
):
    drawn = set()

    def step(pixels):
        drawn.add(torch.rand(()).item())
        return pixels

    given = start(train="probe+finetune", epochs=6, patience=0)
    del given["views"]
    run = zoo.finetune(split_photos, out="run", transform=step, **{**given, **fields})
    assert len(drawn) == 24 * views
    assert run.info.recipe.probe_views == fields.get("views", 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        {},
        pytest.param({"views": 2}, marks=pytest.mark.slow),
        pytest.param({"class_weights": "balanced"}, marks=pytest.mark.slow),
    ],
)
def test_running_a_probes_recipe_again_gives_the_same_weights(split_photos, monkeypatch, case):
    fields = start(train="probe", **case)
    if "views" not in case:
        del fields["views"]  # Then zoo chooses.
    first, _, _ = hear(split_photos, "first", **fields)
    cached = zoo.finetune(recipe="first/recipe.toml", out="cached")
    monkeypatch.setenv("ZOO_HOME", str(Path("empty").absolute()))
    computed = zoo.finetune(recipe="first/recipe.toml", out="computed")
    assert sha256(first) == sha256(cached) == sha256(computed)


@pytest.mark.slow
def test_settings_reach_the_probe(photos, tmp_path):
    """Photos of one class are few, so that weights of classes count."""
    for photo in photos.rglob("*.png"):
        if photo.parent.name != "red" or int(photo.stem) < 4:
            copy = tmp_path / "few" / photo.relative_to(photos)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(photo.read_bytes())
    fields = start(train="probe")
    cases = [
        {},
        {"class_weights": "balanced"},
        {"label_smoothing": 0.2},
        {"views": 1},
        {"views": 2},
    ]
    made = [
        hear(tmp_path / "few", f"run{n}", **{**fields, **case})[0] for n, case in enumerate(cases)
    ]
    assert len({sha256(run) for run in made}) == len(cases)
    assert made[0].info.recipe.freeze == "backbone"


@pytest.mark.slow
def test_fine_tuning_that_destroys_the_probe_leaves_the_probe(split_photos):
    probe, _, _ = hear(split_photos, "probe", **start(train="probe"))
    fields = start(train="probe+finetune", epochs=2, lr=30.0, interpolate=False)
    both, _, _ = hear(split_photos, "both", **fields)
    kept = rows(both)[both.info.epoch]
    assert kept["val_accuracy"] >= probe.info.val_accuracy
    if both.info.epoch == 0:
        assert sha256(both) == sha256(probe)


@pytest.mark.slow
def test_fine_tuning_that_cannot_go_on_leaves_the_probe_and_says_so(split_photos):
    probe, _, _ = hear(split_photos, "probe", **start(train="probe"))
    with pytest.raises(TrainingError, match="both: the probe, "):
        hear(split_photos, "both", **start(train="probe+finetune", lr=1e30, on_nan="stop"))
    assert sha256(zoo.load("both")) == sha256(probe)


@pytest.mark.slow
def test_fine_tuning_after_a_probe_holds_batch_norm(split_photos):
    fields = start(train="probe+finetune", epochs=2, lr=1e-4)
    before = read_state_dict(Path(fields["weights"]))
    events = []
    run = zoo.finetune(split_photos, out="run", listen=events.append, **fields)
    assert run.info.recipe.batch_norm == "frozen"
    after = state(run)
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    assert statistics
    assert all(torch.equal(after[name], before[name]) for name in statistics)


@pytest.mark.slow
def test_random_weights_are_fine_tuned_unless_told_otherwise(photos):
    run, notes, _ = hear(photos, "run", **QUICK)
    assert run.info.recipe.train == "finetune"
    assert any("train = finetune" in note for note in notes)
    run, _, _ = hear(photos, "probe", **QUICK, train="probe")
    assert [row["epoch"] for row in rows(run)] == [0]


def squeezenet():
    """Fields of a run of a network that has more after its head: its logits are rectified."""
    name = "torchvision/squeezenet1_1"
    torch.manual_seed(0)
    save_file(dict(zoo.build(name, 3, weights="none").state_dict()), "squeezenet.safetensors")
    return {**QUICK, "backbone": name, "weights": "squeezenet.safetensors", "image_size": 64}


def test_a_head_that_allows_no_probe_is_fine_tuned_where_none_was_asked_for(photos):
    run, notes, _ = hear(photos, "run", **squeezenet())
    (said,) = [note for note in notes if "train = finetune" in note]
    assert "torchvision/squeezenet1_1" in said
    assert run.info.recipe.train == "finetune"
    assert [row["epoch"] for row in rows(run)] == [1]


@pytest.mark.parametrize("train", ["probe", "probe+finetune"])
def test_a_head_that_allows_no_probe_is_an_error_where_one_was_asked_for(photos, train):
    asked = flags({**squeezenet(), "train": train, "data": photos, "out": "run"})
    result = zoo_("finetune", *asked, code=2)
    assert "torchvision/squeezenet1_1" in result.stderr
    assert "--train finetune" in result.stderr
    assert "Traceback" not in result.output
    assert not Path("run").exists()


def test_what_a_probe_freezes_is_not_told_otherwise(photos):
    with pytest.raises(RecipeError, match='train = "probe"'):
        zoo.finetune(photos, **start(train="probe", freeze=2))


@pytest.mark.slow
def test_the_demo_can_be_a_probe():
    run, notes, _ = hear(None, "run", **{**QUICK, "train": "probe"})
    assert run.class_names == tuple("0123456789")
    assert run.info.val_accuracy > 0.5
    assert any("1,797 rows" in note for note in notes)


@pytest.mark.slow
def test_the_commands_take_a_probes_run(split_photos):
    asked = flags({**start(train="probe"), "data": split_photos, "out": "run"})
    result = zoo_("finetune", *asked)
    # The plan says that it follows, and then it does.
    assert len([line for line in result.output.splitlines() if line.startswith("transfer ")]) == 2
    assert "the probe" in Path("run/README.md").read_text()
    evaluated = zoo_("evaluate", "run", "--format", "json")
    accuracy = json.loads(evaluated.stdout)["accuracy"]
    assert accuracy == zoo.load("run").info.val_accuracy
    photo = split_photos / "val" / "red" / "0.png"
    predicted = zoo_("predict", "run", str(photo))
    assert "red" in predicted.stdout


@pytest.mark.parametrize("train", ["probe", "finetune", "probe+finetune"])
def test_a_dry_run_writes_nothing_at_all(split_photos, train, monkeypatch):
    fields = start(train=train)
    home = Path("home").absolute()
    monkeypatch.setenv("ZOO_HOME", str(home))
    before = sorted(Path().rglob("*"))
    asked = flags({**fields, "data": split_photos})
    result = zoo_("finetune", "--dry-run", *asked)
    (row,) = [line for line in result.output.splitlines() if line.startswith("transfer ")]
    assert ("not measured" in row) is (train == "finetune")
    assert not home.exists()
    assert sorted(Path().rglob("*")) == before


def launched(out, recipe):
    """A run by two processes; TOML can't say that a field, such as `views`, is None on purpose."""
    Path("launched.toml").write_text(dump_recipe(recipe))
    Path("launched.py").write_text(
        f"import zoo\nzoo.finetune(out={out!r}, recipe='launched.toml', views={recipe.views})\n"
    )
    done = subprocess.run([*IN_TWO, "launched.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zoo.load(out)


def check_as_good(one, other):
    """The same losses and accuracies; where the loss is flat, rounding moves the weights."""
    for row, expected in zip(rows(one), rows(other), strict=True):
        assert row == pytest.approx(expected, rel=0, abs=1e-5)


@pytest.fixture
def one_thread():
    """As launched processes have it; more of them round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", [{}, {"views": 2}, {"cache_size": 0.0}])
def test_two_processes_fit_the_probe_of_one(split_photos, case):
    """Each computes a share; then all is there; then all but one."""
    fields = start(train="probe", **case)
    one, _, _ = hear(split_photos, "one", **{**fields, "cache_size": 0.0})
    recipe = make_recipe(data=split_photos, **fields)
    check_as_good(launched("two", recipe), one)
    features = [store for store in cache.stored() if store.kind == "features"]
    assert bool(features) == (case.get("cache_size") != 0)
    check_as_good(launched("again", recipe), one)
    for store in features:
        (store.path / "index.bin").write_bytes((store.path / "index.bin").read_bytes()[:-52])
    check_as_good(launched("nearly", recipe), one)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_processes_fine_tune_from_the_probe_of_one(split_photos):
    fields = start(train="probe+finetune", lr=1e-7)
    two = launched("two", make_recipe(data=split_photos, **fields))
    one, _, _ = hear(split_photos, "one", **fields)
    assert [row["epoch"] for row in rows(two)] == [0, 1]
    assert rows(two)[0] == pytest.approx(rows(one)[0], abs=1e-5)
