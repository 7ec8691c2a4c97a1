from pathlib import Path

import pytest

from zoo.errors import RecipeError
from zoo.recipe import Recipe, change, dump_recipe, make_recipe


def write(text: str) -> Path:
    file = Path("recipe.toml")
    file.write_text(text)
    return file


def test_overrides_win_over_the_file_and_the_file_over_defaults():
    recipe = make_recipe(write("lr = 0.5\nepochs = 7\n"), epochs=2)
    assert (recipe.lr, recipe.epochs, recipe.seed) == (0.5, 2, Recipe().seed)


def test_what_was_given_is_known_apart_from_defaults():
    assert make_recipe(write("lr = 0.5\n"), epochs=2).model_fields_set == {"lr", "epochs"}


def test_all_wrong_keys_are_reported_at_once_each_with_the_nearest_right_one():
    file = write(
        'epoch = 3\nhead_lr_multi = 2.0\nlr = "3e-4"\noptimizer = "sdg"\nval_split = 2.0\n'
    )
    with pytest.raises(RecipeError) as error:
        make_recipe(file)
    message = str(error.value)
    assert "unknown key 'epoch'; did you mean 'epochs'?" in message
    assert "unknown key 'head_lr_multi'; did you mean 'head_lr_mult'?" in message
    assert "lr = '3e-4': input should be a valid number" in message
    assert "optimizer = 'sdg'" in message
    assert "did you mean 'sgd'?" in message
    assert "val_split = 2.0: input should be less than 1" in message
    assert message.startswith("recipe recipe.toml:")


def test_a_key_like_no_other_lists_the_keys():
    with pytest.raises(RecipeError, match="unknown key 'zzz'; keys: backbone, weights"):
        make_recipe(zzz=1)


@pytest.mark.parametrize("content", [b"lr = ", b"\xff\xfe", b"lr = 1\nlr = 2"])
def test_a_file_that_is_no_toml_is_refused(content):
    Path("bad.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipe bad\.toml is no TOML"):
        make_recipe(Path("bad.toml"))


def test_a_missing_file_is_refused():
    with pytest.raises(RecipeError, match=r"can't read recipe none\.toml: No such file"):
        make_recipe(Path("none.toml"))


def test_a_whole_number_is_a_good_learning_rate():
    assert make_recipe(write("lr = 1\n")).lr == 1.0


def test_dumped_recipes_read_back_the_same():
    recipe = change(Recipe(), data='photos "and" more', image_size=64, strict=True)
    assert make_recipe(write(dump_recipe(recipe, heading="why\nwhere"))) == recipe
    assert Path("recipe.toml").read_text().startswith("# why\n# where\n")


def test_every_field_has_a_description_that_ends_as_a_sentence():
    assert all((f.description or "").endswith(".") for f in Recipe.model_fields.values())
