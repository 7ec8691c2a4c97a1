"""A loss and a transform of one's own: what they do to a run, and what it records of them."""

import pytest
import torch

import zoo
from tests.conftest import QUICK
from zoo.errors import DataError, RecipeError
from zoo.events import EpochEnd


class Brightness(torch.nn.Module):
    """A custom transform: random brightness, as one of torchvision's would be."""

    def forward(self, pixels):
        return (pixels.float() * (0.8 + 0.2 * torch.rand(()))).to(torch.uint8)


def doubled(logits, targets):
    """A custom loss."""
    return 2 * torch.nn.functional.cross_entropy(logits, targets)


CUSTOM = {**QUICK, "train": "finetune", "epochs": 2}


@pytest.mark.medium
def test_a_custom_loss_and_transform_train_and_are_recorded(photos):
    plain = zoo.finetune(photos, out="plain", report=False, **CUSTOM)
    run = zoo.finetune(photos, out="run", loss=doubled, transform=Brightness(), **CUSTOM)
    names = {"loss": f"{__name__}.doubled", "transform": f"{__name__}.Brightness"}
    assert dict(run.info.custom) == names
    assert plain.info.custom == {}
    text = (run.path / "recipe.toml").read_text()
    assert all(name in text for name in names.values())
    assert [f for f in zoo.verify(run.path) if f.state != "ok"] == []
    first = [
        (r.path / "metrics.csv").read_text().splitlines()[1].split(",")[1] for r in (plain, run)
    ]
    assert float(first[1]) > 1.5 * float(first[0])


@pytest.mark.medium
def test_a_resumed_run_needs_the_loss_of_the_same_name(photos):
    def interrupt(event):
        if isinstance(event, EpochEnd):
            raise KeyboardInterrupt

    with pytest.raises(zoo.Stopped):
        zoo.finetune(photos, out="run", loss=doubled, listen=interrupt, **CUSTOM)
    with pytest.raises(zoo.ZooError):
        zoo.resume("run")
    whole = zoo.finetune(photos, out="whole", loss=doubled, **CUSTOM)
    run = zoo.resume("run", loss=doubled)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("fields", "loss"),
    [
        ({"label_smoothing": 0.1}, doubled),
        ({"class_weights": "balanced"}, doubled),
        ({"train": "probe"}, doubled),
        ({}, torch.nn.Linear(3, 3)),
    ],
    ids=["smoothing", "weights", "probe", "parameters"],
)
def test_settings_without_a_use_for_a_custom_loss_are_refused(photos, fields, loss):
    with pytest.raises(RecipeError):
        zoo.finetune(photos, out="run", loss=loss, **{**CUSTOM, **fields})


@pytest.mark.medium
def test_a_loss_or_transform_that_returns_something_else_is_an_error(photos):
    def by_image(logits, targets):
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    with pytest.raises(zoo.ZooError):
        zoo.finetune(photos, out="run", loss=by_image, **CUSTOM)
    with pytest.raises(DataError):
        zoo.finetune(photos, out="run", transform=lambda pixels: pixels.float(), **CUSTOM)


class Compose:
    """What albumentations' transforms offer."""

    def __init__(self):
        self.seeds = []

    def set_random_seed(self, seed):
        self.seeds.append(seed)

    def __call__(self, *, image):
        assert image.flags.c_contiguous
        return {"image": image[:, ::-1] if self.seeds[-1] % 2 else image}


def test_transforms_of_albumentations_are_seeded_by_torch():
    compose = Compose()
    transform = zoo.albumentations(compose)
    pixels = torch.arange(2 * 4 * 3).reshape(3, 2, 4).to(torch.uint8)
    found = []
    for seed in (0, 1, 2, 3, 0):
        torch.manual_seed(seed)
        found.append(transform(pixels))
    assert compose.seeds[0] == compose.seeds[4]
    assert len(set(compose.seeds)) == 4
    for seed, each in zip(compose.seeds, found, strict=True):
        assert torch.equal(each, pixels.flip(2) if seed % 2 else pixels)


@pytest.mark.slow
def test_a_run_with_transforms_of_albumentations_has_equal_weights_again(photos, monkeypatch):
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    albumentations = pytest.importorskip("albumentations")
    compose = albumentations.Compose(
        [albumentations.HorizontalFlip(p=0.5), albumentations.GaussNoise(p=1.0)]
    )
    settings = {**CUSTOM, "transform": zoo.albumentations(compose)}
    found = [zoo.finetune(photos, out=name, **settings).model.state_dict() for name in "ab"]
    plain = zoo.finetune(photos, out="plain", **CUSTOM).model.state_dict()
    assert all(torch.equal(found[0][name], found[1][name]) for name in plain)
    assert any(not torch.equal(found[0][name], plain[name]) for name in plain)
