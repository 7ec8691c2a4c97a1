"""zoo's data, networks and run folders around training loops of one's own."""

import copy
import json
import warnings

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import zoo
from tests.conftest import TINY, eval_input, zoo_
from zoo.errors import DataError, OptionError, RecipeError, WeightsError
from zoo.events import EpochEnd, Measured, RunEnd, RunStart
from zoo.runs.scores import read_columns

#: Fields that data, model and run have in common.
FIELDS = {"backbone": TINY, "weights": "none", "image_size": 32, "device": "cpu"}


def trained(data, epochs=1):
    """A model after a plain loop, and the train images it has learnt from."""
    train, _, _ = zoo.datasets(data, **FIELDS)
    torch.manual_seed(0)
    model = zoo.build(TINY, len(train.class_names), weights="none")
    groups = zoo.parameter_groups(model, TINY, lr=1e-3, head_lr_mult=3)
    optimizer = torch.optim.AdamW(groups)
    model.train()
    for _ in range(epochs):
        for images, targets in DataLoader(train, batch_size=8, shuffle=True):
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def saved(split_photos, tmp_path_factory):
    """A run of a plain loop, its model, and the events of saving it."""
    model, events = trained(split_photos), []
    out = tmp_path_factory.mktemp("own") / "run"
    run = zoo.save_run(model, split_photos, out=out, epochs=1, listen=events.append, **FIELDS)
    return run, model, events


@pytest.mark.medium
def test_a_plain_loop_ends_in_a_run_that_every_command_accepts(saved, split_photos):
    run, model, _ = saved
    assert zoo_("verify", run.path).exit_code == 0
    assert [f for f in zoo.verify(run.path) if f.state != "ok"] == []
    there = {path.name for path in run.path.iterdir()}
    assert there >= {"model.safetensors", "predictions.parquet", "report.html", "recipe.toml"}
    accuracy = run.info.figures["val"].metrics["accuracy"].value
    assert run.info.val_accuracy == accuracy
    evaluated = json.loads(zoo_("evaluate", run.path, "--format", "json").stdout)
    assert evaluated["accuracy"] == accuracy
    sample = zoo.datasets(split_photos, **FIELDS).val.samples[-1]
    predicted = json.loads(zoo_("predict", run.path, sample.file, "--format", "json").stdout)
    columns = read_columns(run.path / "predictions.parquet")
    row = columns["name"].index(sample.name)
    assert predicted[0]["label"] == columns["predicted"][row]
    assert predicted[0]["probability"] == pytest.approx(
        float(columns["probability"][row]), abs=1e-5
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(zoo.load(run.path).model.state_dict()[name], tensor)
    assert run.info.temperature != 1
    assert run.info.confidence is not None


@pytest.mark.medium
def test_a_saved_run_says_that_other_code_trained_it(saved):
    run, _, events = saved
    assert set(run.info.custom) == {"training"}
    told = [type(e) for e in events if isinstance(e, RunStart | EpochEnd | Measured | RunEnd)]
    assert told == [RunStart, EpochEnd, Measured, RunEnd]
    for file in ("README.md", "report.html", "recipe.toml"):
        assert run.info.custom["training"] in (run.path / file).read_text()


@pytest.mark.medium
def test_the_splits_and_transforms_are_those_of_a_run(run, split_photos):
    _, val, test = zoo.datasets(split_photos, **FIELDS)
    columns = read_columns(run.path / "predictions.parquet")
    assert [sample.name for sample in val.samples] == list(columns["name"])
    assert (len(test), val.class_names) == (0, run.class_names)
    image, target = val[0]
    file = val.samples[0].file
    assert torch.equal(image, eval_input(Image.open(file).convert("RGB"), run.info.preprocess))
    assert val.class_names[target] == val.samples[0].label
    assert torch.equal(image, zoo.transforms(**FIELDS).eval(Image.open(file)))
    assert run.predict(file)[0].path == file


def test_untransformed_images_are_those_of_the_files(photos):
    train, val, _ = zoo.datasets(photos, transformed=False, **FIELDS)
    image, _ = train[0]
    assert (image.size, image.mode) == ((64, 48), "RGB")
    assert len(train) + len(val) == 30
    train.transform = lambda image: image.size
    assert train[0][0] == (64, 48)


def test_the_train_transform_draws_from_torchs_generator(photos):
    image = Image.open(photos / "red" / "0.png")
    augment = zoo.transforms(TINY, image_size=32, augment="strong").train
    drawn = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        drawn.append(augment(image))
    assert drawn[0].shape == (3, 32, 32)
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    with pytest.raises(DataError):
        augment(b"bytes")


@pytest.mark.parametrize(
    "fields",
    [{"train": "probe"}, {"folds": 3}, {"time": "1m"}, {"lora_rank": 4}, {"backbone": "auto"}],
    ids=lambda fields: next(iter(fields)),
)
def test_settings_that_only_zoos_training_follows_are_refused(photos, fields):
    model = torch.nn.Linear(1, 1)
    with pytest.raises(RecipeError):
        zoo.save_run(model, photos, out="run", **{**FIELDS, **fields})


@pytest.mark.parametrize("model", [{}, 3, None])
def test_what_is_no_model_is_refused(photos, model):
    with pytest.raises(WeightsError):
        zoo.save_run(model, photos, out="run", **FIELDS)


@pytest.mark.parametrize("number", [0, -1, "3", 2.0])
def test_a_number_of_classes_that_is_none_is_refused(number):
    with pytest.raises(OptionError):
        zoo.build(TINY, number, weights="none")


@pytest.mark.medium
def test_a_model_that_does_not_fit_leaves_nothing(photos, tmp_path):
    model = zoo.build(TINY, 5, weights="none")
    with pytest.raises(WeightsError):
        zoo.save_run(model, photos, out=tmp_path / "run", **FIELDS)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_trainer_of_transformers_ends_in_a_run(split_photos):
    transformers = pytest.importorskip("transformers")
    train, _, _ = zoo.datasets(split_photos, **FIELDS)
    model = zoo.build(TINY, len(train.class_names), weights="none")

    class Trainer(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            logits = model(inputs["pixel_values"])
            loss = torch.nn.functional.cross_entropy(logits, inputs["labels"])
            return (loss, {"logits": logits}) if return_outputs else loss

    def collate(pairs):
        images, targets = zip(*pairs, strict=True)
        return {"pixel_values": torch.stack(images), "labels": torch.stack(targets)}

    settings = transformers.TrainingArguments(
        output_dir="trainer",
        num_train_epochs=1,
        per_device_train_batch_size=8,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    before = copy.deepcopy(model)
    Trainer(model=model, args=settings, train_dataset=train, data_collator=collate).train()
    run = zoo.save_run(model, split_photos, out="run", epochs=1, **FIELDS)
    check_saved(run, before)


@pytest.mark.slow
def test_a_module_of_lightning_ends_in_a_run(split_photos):
    lightning = pytest.importorskip("lightning")
    train, _, _ = zoo.datasets(split_photos, **FIELDS)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = zoo.build(TINY, len(train.class_names), weights="none")

        def training_step(self, batch, _):
            images, targets = batch
            return torch.nn.functional.cross_entropy(self.model(images), targets)

        def configure_optimizers(self):
            return torch.optim.AdamW(zoo.parameter_groups(self.model, TINY, lr=1e-3))

    module = Module()
    before = copy.deepcopy(module.model)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet)
    # Lightning warns about loaders without worker processes.
    with warnings.catch_warnings(action="ignore"):
        trainer.fit(module, DataLoader(train, batch_size=8, shuffle=True))
    run = zoo.save_run(module.model, split_photos, out="run", epochs=1, **FIELDS)
    check_saved(run, before)


@pytest.mark.slow
def test_a_learner_of_fastai_ends_in_a_run(split_photos):
    fastai = pytest.importorskip("fastai.vision.all")
    train, val, _ = zoo.datasets(split_photos, **FIELDS)
    model = zoo.build(TINY, len(train.class_names), weights="none")
    before = copy.deepcopy(model)
    loaders = fastai.DataLoaders.from_dsets(
        train, val, bs=8, device=torch.device("cpu"), num_workers=0
    )
    learner = fastai.Learner(loaders, model, loss_func=torch.nn.CrossEntropyLoss())
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1)
    run = zoo.save_run(learner.model, split_photos, out="run", epochs=1, **FIELDS)
    check_saved(run, before)


def check_saved(run, before):
    """The run holds a model that was trained, and measures it itself."""
    earlier = before.state_dict()
    assert any(not torch.equal(earlier[n], t) for n, t in run.model.state_dict().items())
    assert [f for f in zoo.verify(run.path) if f.state != "ok"] == []
    assert run.evaluate().accuracy == run.info.val_accuracy
