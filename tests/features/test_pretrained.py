"""Features without a run: those of a run's probe, from the same cache."""

import pytest
import torch
from safetensors.torch import save_file

import zoo
from tests.conftest import QUICK, TINY, make_photos
from zoo import plugins
from zoo.data.sources import open_source
from zoo.data.transforms import eval_transform, mirrored_transform
from zoo.features.pretrained import features_of, load_pretrained
from zoo.recipe import make_recipe

RECIPE = {**QUICK, "train": "probe", "augment": "none"}


def samples_of(folder):
    return open_source(str(folder)).read("train").samples


@pytest.mark.medium
def test_features_of_a_run_are_read_from_its_cache(tmp_path):
    data = make_photos(tmp_path / "photos", 4)
    weights = tmp_path / "weights.safetensors"
    save_file(zoo.build(TINY, 5, weights="none").state_dict(), weights)
    recipe = {**RECIPE, "weights": str(weights)}
    zoo.finetune(data, out=tmp_path / "run", listen=lambda _: None, **recipe)
    pretrained = load_pretrained(plugins.get(TINY), make_recipe(None, **recipe))
    (found,) = features_of(pretrained, samples_of(data))
    assert found.features.shape[0] == 12
    assert found.features.dtype == torch.float32
    assert found.computed == 0


def test_features_depend_on_the_weights_and_the_transform_alone(tmp_path):
    samples = samples_of(make_photos(tmp_path / "photos", 2))
    state = torch.random.get_rng_state()
    one = load_pretrained(plugins.get(TINY), make_recipe(None, **RECIPE))
    other = load_pretrained(plugins.get(TINY), make_recipe(None, **RECIPE, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    views = [eval_transform(one.preprocess), mirrored_transform(one.preprocess)]
    plain, mirrored = features_of(one, samples, views)
    assert (plain.computed, mirrored.computed) == (6, 6)
    assert not torch.allclose(plain.features, mirrored.features)
    again, _ = features_of(one, samples, views)
    assert again.computed == 0
    assert torch.equal(again.features, plain.features)
    (random,) = features_of(other, samples)
    assert random.computed == 6
