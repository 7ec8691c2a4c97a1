"""Ranges of `zoo tune`: what can be searched, and how it is written."""

import pytest

from zoo.errors import RecipeError
from zoo.recipe import Recipe, make_recipe
from zoo.recipe.search import Choices, Interval, default_ranges, make_search, parse_range


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("lr", "1e-5..1e-3", Interval(low=1e-5, high=1e-3, log=True)),
        ("lr", "1e-5..1e-3:linear", Interval(low=1e-5, high=1e-3, log=False)),
        ("layer_decay", "0.6..1", Interval(low=0.6, high=1.0, log=False)),
        ("layer_decay", " .6 .. 1. : log", Interval(low=0.6, high=1.0, log=True)),
        ("lora_rank", "4..32", Interval(low=4, high=32, log=True)),
        ("freeze", "1..3", Interval(low=1, high=3, log=False)),
        ("freeze", "none,backbone,2", Choices(values=("none", "backbone", 2))),
        ("mixup", "0,0.2", Choices(values=(0.0, 0.2))),
        ("mixup", [0, 0.2], Choices(values=(0.0, 0.2))),
        ("hflip", "true,false", Choices(values=(True, False))),
        ("augment", ["light", "strong"], Choices(values=("light", "strong"))),
        ("weights", "../a,../b", Choices(values=("../a", "../b"))),
        ("image_size", "128,160", Choices(values=(128, 160))),
    ],
)
def test_a_range_is_an_interval_or_a_list(name, given, expected):
    found = parse_range(name, given)
    assert found == expected
    assert [type(v) for v in vars(found).values()] == [type(v) for v in vars(expected).values()]
    assert parse_range(name, str(found)) == found
    assert parse_range(name, found) == found


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("nonsense", "1..2"),
        ("backbone_lr", "1e-5..1e-3"),
        ("epochs", "2..5"),
        ("steps", "200..500"),
        ("samples", "2000,5000"),
        ("unlabelled", "a,b"),
        ("seed", "0,1,2"),
        ("device", "cpu,cuda"),
        ("data", "a,b"),
        ("backbone_options", "1,2"),
        ("lr", "1e-3..1e-5"),
        ("lr", "1e-3..1e-3"),
        ("lr", "a..b"),
        ("lr", "0..1"),
        ("lr", "-1..1"),
        ("lr", "1e-5..1e999"),
        ("lr", ""),
        ("lr", 3),
        ("lr", {"low": 1}),
        ("weight_decay", "0..0.1"),
        ("mixup", "0.2"),
        ("mixup", "0.2,0.2"),
        ("mixup", "0,,1"),
        ("mixup", "0,high"),
        ("mixup", [0, None]),
        ("mixup", []),
        ("augment", "light,strnog"),
        ("augment", "light..strong"),
        ("image_size", "128.5..256"),
        ("hflip", "yes,no"),
    ],
)
def test_what_is_no_range_is_refused(name, given):
    with pytest.raises(RecipeError) as error:
        parse_range(name, given)
    assert name in str(error.value)


def test_another_tools_name_is_answered_with_zoos():
    with pytest.raises(RecipeError, match="`lr`"):
        parse_range("backbone_lr", "1e-5..1e-3")


def write(tmp_path, text):
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    return file


def test_a_recipe_file_has_ranges_in_a_table_that_only_tune_reads(tmp_path):
    file = write(
        tmp_path, '[training]\nepochs = 3\n[search]\nlr = "1e-5..1e-3"\nmixup = [0, 0.2]\n'
    )
    recipe, ranges = make_search(file)
    assert recipe.epochs == 3
    assert ranges == {
        "lr": Interval(low=1e-5, high=1e-3, log=True),
        "mixup": Choices(values=(0.0, 0.2)),
    }
    with pytest.raises(RecipeError):
        make_recipe(file)


def test_arguments_replace_what_a_file_says_of_the_same_field(tmp_path):
    file = write(tmp_path, "epochs = 3\nlr = 1e-4\n[search]\nmixup = [0, 0.2]\ncutmix = [0, 1]\n")
    recipe, ranges = make_search(file, {"lr": "1e-5..1e-3"}, mixup=0.1)
    assert list(ranges) == ["cutmix", "lr"]
    assert (recipe.mixup, "lr" in recipe.model_fields_set) == (0.1, False)


def test_a_field_can_not_have_a_value_and_a_range(tmp_path):
    with pytest.raises(RecipeError):
        make_search(None, {"lr": "1e-5..1e-3"}, lr=1e-4)
    with pytest.raises(RecipeError):
        make_search(write(tmp_path, 'lr = 1e-4\n[search]\nlr = "1e-5..1e-3"\n'))
    with pytest.raises(RecipeError):
        make_search(write(tmp_path, "search = 3\n"))


def test_the_time_of_a_search_limits_no_trial():
    recipe, _ = make_search(None, {"lr": "1e-5..1e-3"}, steps=900, time="1h")
    assert (recipe.steps, recipe.time) == (900, "1h")
    with pytest.raises(RecipeError, match="time"):
        make_search(None, steps=900, time="soon")
    with pytest.raises(RecipeError):
        make_search(None, steps=900, samples=9000)


@pytest.mark.parametrize("length", ["steps", "samples"])
def test_trials_of_so_many_steps_have_the_same_batch_size(length):
    ranges = {"batch_size": "8,16"}
    assert make_search(None, ranges, epochs=9)[1].keys() == ranges.keys()
    with pytest.raises(RecipeError, match=length):
        make_search(None, ranges, **{length: 900})


def test_the_default_ranges_lie_around_the_resolved_values_and_leave_out_what_is_given():
    resolved = make_recipe(None, lr=1e-3, weight_decay=0.0)
    found = default_ranges(make_recipe(None, mixup=0.1), resolved)
    assert found["lr"].low < 1e-3 < found["lr"].high
    assert "mixup" not in found
    assert "weight_decay" not in found  # Zero has no surroundings on a log scale.
    assert "augment" not in default_ranges(Recipe(), resolved, channels=4)
    with pytest.raises(RecipeError):
        default_ranges(Recipe(), make_recipe(None, train="probe"))
    for name, each in default_ranges(Recipe(), Recipe()).items():
        assert parse_range(name, each) == each
