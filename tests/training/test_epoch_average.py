"""The average of the weights after the last epochs."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from tests.conftest import eval_input, zoo_
from tests.pipeline.conftest import hear, rows, start, state
from zoo.errors import RecipeError
from zoo.events import EpochEnd, Note
from zoo.recipe import make_recipe
from zoo.runs.checkpoint_file import read_checkpoint
from zoo.training.epoch_average import is_averaged, with_epoch
from zoo.training.snapshot import Snapshot


def test_each_epoch_has_the_same_share():
    model = torch.nn.BatchNorm1d(3)
    drawn = torch.Generator().manual_seed(0)
    weights, average = torch.randn(4, 3, generator=drawn), {}
    for count, weight in enumerate(weights, start=1):
        with torch.no_grad():
            model.weight.copy_(weight)
        model.num_batches_tracked += 1
        average = with_epoch(average, model, count)
    torch.testing.assert_close(average["weight"], weights.mean(dim=0))
    assert average["num_batches_tracked"] == 4


def test_the_last_epochs_are_averaged():
    recipe = make_recipe(None, epochs=5, average_epochs=2)
    assert [epoch for epoch in range(1, 6) if is_averaged(epoch, recipe)] == [4, 5]
    more = make_recipe(None, epochs=2, average_epochs=5)
    assert all(is_averaged(epoch, more) for epoch in (1, 2))
    assert not any(is_averaged(epoch, make_recipe(None)) for epoch in range(1, 7))


def test_the_average_of_one_epoch_is_refused():
    with pytest.raises(RecipeError):
        make_recipe(None, average_epochs=1)


@pytest.mark.medium
def test_without_val_images_the_average_is_the_result(split_photos):
    """With batch-norm statistics of its own."""
    models, notes = {}, []

    def listen(event):
        if isinstance(event, EpochEnd):
            checkpoint = read_checkpoint(Path("run"))
            snapshot = Snapshot.from_parts(checkpoint.tensors, checkpoint.about)
            models[event.epoch] = snapshot.model
        elif isinstance(event, Note):
            notes.append(event.text)

    fields = start(
        train="finetune",
        epochs=3,
        average_epochs=2,
        augment="none",
        batch_norm="train",
        val_split=0.0,
    )
    data = split_photos / "train"
    run = zoo.finetune(data, out="run", listen=listen, **fields)
    assert (run.info.epoch, run.info.averaged) == (3, 2)
    assert [row["averaged"] for row in rows(run)] == [0, 0, 2]
    assert "epochs 2 to 3" in Path("run/README.md").read_text()
    assert any("epochs 2 to 3" in note for note in notes)
    kept = state(run)
    for name, _ in run.model.named_parameters():
        torch.testing.assert_close(kept[name], (models[2][name] + models[3][name]) / 2)
    images = [
        eval_input(Image.open(file).convert("RGB"), run.info.preprocess)
        for file in sorted(data.rglob("*.png"))
    ]
    conv, norm = next(
        (conv, norm)
        for (_, conv), (norm, module) in zip(
            run.model.named_modules(), [*run.model.named_modules()][1:], strict=False
        )
        if isinstance(conv, torch.nn.Conv2d) and isinstance(module, torch.nn.BatchNorm2d)
    )
    with torch.no_grad():
        means = conv(torch.stack(images)).mean(dim=(0, 2, 3))
    torch.testing.assert_close(kept[f"{norm}.running_mean"], means, rtol=1e-3, atol=1e-4)
    zoo_("verify", "run")


@pytest.mark.medium
@pytest.mark.parametrize(
    ("fields", "said"), [({"epochs": 9, "patience": 1}, True), ({"epochs": 2}, False)]
)
def test_a_run_that_ends_before_the_average_says_so(split_photos, fields, said):
    given = start(train="finetune", average_epochs=2, lr=1e-6, **fields)
    _, notes, _ = hear(split_photos, "run", **given)
    assert any("average_epochs = 2 had no effect" in note for note in notes) is said


@pytest.mark.slow
@pytest.mark.parametrize("better", [True, False])
def test_val_decides_between_the_average_and_the_best_epoch(split_photos, monkeypatch, better):
    compared = []

    def is_better(found, last, metric):
        compared.append((found, last))
        return better

    monkeypatch.setattr("zoo.training.train._is_better", is_better)
    fields = start(train="finetune", epochs=2, average_epochs=2, lr=1e-3)
    run = zoo.finetune(split_photos, out="run", **fields)
    ((found, last),) = compared
    assert found.images == last.images == 12
    *_, end = rows(run)
    chosen = found if better else last
    assert end["averaged"] == (2 if better else 0)
    assert end["val_loss"] == pytest.approx(chosen.loss, abs=1e-6)
    assert run.evaluate().accuracy == run.info.val_accuracy
