import errno
import os
from pathlib import Path

import pytest

from zoo.errors import RecipeError
from zoo.planning.config import Resolver
from zoo.planning.decisions import note_unused
from zoo.recipe import PACKAGED, Recipe, change, dump_recipe, make_recipe


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
        'epoch = 3\nhead_lr_multi = 2.0\nlr = "3e-4"\nschedule = "cosin"\nval_split = 2.0\n'
    )
    with pytest.raises(RecipeError) as error:
        make_recipe(file)
    message = str(error.value)
    for given, meant in (
        ("'epoch'", "'epochs'"),
        ("'head_lr_multi'", "'head_lr_mult'"),
        ("lr = '3e-4'", "number"),
        ("schedule = 'cosin'", "'cosine'"),
        ("val_split = 2.0", " 1"),
    ):
        assert [meant in line for line in message.splitlines() if given in line] == [True]
    assert message.startswith("recipe recipe.toml:")


def test_a_key_like_no_other_lists_the_keys():
    with pytest.raises(RecipeError, match=r"'zzz'.* backbone, backbone_options, weights"):
        make_recipe(zzz=1)


@pytest.mark.parametrize("content", [b"lr = ", b"\xff\xfe", b"lr = 1\nlr = 2"])
def test_a_file_that_is_no_toml_is_refused(content):
    Path("bad.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"bad\.toml .*TOML"):
        make_recipe(Path("bad.toml"))


def test_a_missing_file_is_refused():
    with pytest.raises(RecipeError, match=rf"none\.toml: {os.strerror(errno.ENOENT)}"):
        make_recipe(Path("none.toml"))


def test_a_whole_number_is_a_good_learning_rate():
    assert make_recipe(write("lr = 1\n")).lr == 1.0


def test_dumped_recipes_read_back_the_same():
    recipe = change(Recipe(), data='photos "and" more', image_size=64, strict=True)
    assert make_recipe(write(dump_recipe(recipe, heading="why\nwhere"))) == recipe
    assert Path("recipe.toml").read_text().startswith("# why\n# where\n")


def test_every_field_has_a_description_that_ends_as_a_sentence():
    assert all((f.description or "").endswith(".") for f in Recipe.model_fields.values())


@pytest.mark.parametrize(
    ("toml", "freeze", "epochs"),
    [
        ("freeze = 3\nunfreeze_epoch = 2", 3, (2,)),
        ('freeze = "layer2"\nunfreeze_epoch = [2, 4]', "layer2", (2, 4)),
        ('freeze = "backbone"', "backbone", ()),
        ("", "none", ()),
    ],
)
def test_freezing_reads_from_toml_and_back(toml, freeze, epochs):
    recipe = make_recipe(write(toml))
    assert (recipe.freeze, recipe.unfreeze_epochs) == (freeze, epochs)
    assert make_recipe(write(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"freeze": 0}, "freeze = 0: .*none, backbone"),
        ({"freeze": True}, "freeze = True: "),
        ({"freeze": ""}, "freeze = '': "),
        ({"unfreeze_epoch": 2}, "unfreeze_epoch = 2: .*freeze"),
        ({"freeze": 1, "unfreeze_epoch": 1}, "unfreeze_epoch = 1: .*2"),
        ({"freeze": 1, "unfreeze_epoch": 9}, "unfreeze_epoch = 9: .*6 epochs"),
        ({"freeze": 1, "unfreeze_epoch": [3, 2]}, r"unfreeze_epoch = \[3, 2\]: "),
        ({"freeze": 1, "unfreeze_epoch": [2, 2]}, r"unfreeze_epoch = \[2, 2\]: "),
        ({"freeze": 1, "unfreeze_epoch": []}, r"unfreeze_epoch = \[\]: "),
        ({"freeze": 1, "unfreeze_epoch": "2,4"}, "unfreeze_epoch = '2,4': "),
        ({"augment": "none", "random_erasing": 0.1}, r"random_erasing = 0\.1: "),
        ({"augment": "none", "repeated_augmentation": 2}, "repeated_augmentation = 2: "),
        ({"layer_decay": 0.0}, r"layer_decay = 0\.0: .*greater than 0"),
        ({"layer_decay": 1.1}, r"layer_decay = 1\.1: .*equal to 1"),
    ],
)
def test_what_cannot_be_together_is_refused_when_it_is_read(fields, named):
    with pytest.raises(RecipeError, match=named) as error:
        make_recipe(**fields)
    assert len(str(error.value).splitlines()) == 2


def unused(recipe, **fields):
    """Notes on fields without an effect, by field."""
    notes = []
    made = make_recipe(recipe, **fields)
    note_unused(Resolver(made, fields, listen=notes.append), notes.append)
    texts = dict(note.text.split(" has no effect: ") for note in notes)
    assert all(texts.values())
    return set(texts)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"augment": "none", "hflip": True, "crop_scale": 0.5}, {"hflip", "crop_scale"}),
        ({"augment": "none", "hflip": False}, set()),
        ({"schedule_power": 3.0}, {"schedule_power"}),
        ({"schedule_power": 3.0, "schedule": "exponential"}, set()),
        ({"warmup_start": 0.1}, set()),
        ({"warmup_start": 0.1, "warmup_epochs": 0.0}, {"warmup_start"}),
        ({"warmup_start": 0.1, "warmup_epochs": 0.0, "schedule": "one-cycle"}, set()),
        ({"warmup_epochs": 2.0, "warmup_steps": 5}, {"warmup_epochs"}),
        ({"warmup_start": 0.1, "warmup_steps": 0}, {"warmup_start"}),
        ({"train": "finetune", "probe_scale": 0.5}, {"probe_scale"}),
        ({"train": "finetune", "probe_scale": 0.25}, set()),
        ({"momentum": 0.5}, {"momentum"}),
        ({"momentum": 0.5, "optimizer": "sgd"}, set()),
        ({"momentum": 0.5, "optimizer": "lamb"}, {"momentum"}),
        ({"momentum": 0.5, "optimizer": "rmsprop"}, set()),
        (
            {"train": "finetune", "teacher": "run", "distill_weight": 1, "label_smoothing": 0.2},
            {"label_smoothing"},
        ),
        ({"teacher": "run", "distill_weight": 1, "label_smoothing": 0.2}, set()),
        ({"train": "probe", "augment": "strong", "hflip": True}, {"augment", "hflip"}),
        ({"train": "probe", "probe_views": 2, "augment": "strong", "hflip": True}, set()),
        (
            {"train": "probe", "clip_grad": 2.0, "steps": 9, "grad_accumulation": 2},
            {"clip_grad", "steps", "grad_accumulation"},
        ),
        ({"train": "probe", "mixup": 0.2, "schedule": "linear"}, {"mixup", "schedule"}),
    ],
)
def test_what_the_user_sets_without_an_effect_is_noted(fields, names):
    assert unused(None, **fields) == names


def test_values_that_are_written_out_are_not_noted():
    for name in PACKAGED:
        assert not unused(name), name
    for train in ("probe", "finetune", "probe+finetune"):
        everything = make_recipe(None, **make_recipe(None, train=train).model_dump())
        assert not unused(everything)
    assert "clip_grad" in unused("article", train="probe")
    resolver = Resolver(make_recipe(None, train="probe"), listen=lambda note: None)
    resolver.replace("with SGD", lr=1e-3)
    assert not resolver.changed("lr")


@pytest.mark.parametrize("name", ["article", "best", "quick", "hf-guide", "timm-vit-inat21"])
def test_a_name_finds_a_recipe_that_comes_with_zoo(name):
    assert make_recipe(name).model_fields_set
    assert make_recipe("quick", seed=3).seed == 3


@pytest.mark.parametrize("file", ["quick", "quick.toml"])
def test_a_file_of_a_packaged_recipes_name_is_not_passed_over_silently(file):
    Path(file).write_text("seed = 7\n")
    with pytest.raises(RecipeError, match=rf"\./{file}"):
        make_recipe("quick")
    assert make_recipe(f"./{file}").seed == make_recipe(Path(file)).seed == 7
    assert make_recipe("frozen").freeze == "backbone"


def test_an_unknown_name_lists_the_known_ones_and_a_file_that_may_be_meant():
    with pytest.raises(RecipeError, match=r"'quik'.*article, best, frozen, .*quick, "):
        make_recipe("quik")
    Path("mine").write_text("seed = 7\n")
    with pytest.raises(RecipeError, match=r"article, .* \./mine"):
        make_recipe("mine")
    for name in ("x" * 300, ""):
        with pytest.raises(RecipeError, match="article, best, frozen, "):
            make_recipe(name)


def test_keys_may_stand_in_the_tables_of_their_sections():
    file = write("""
seed = 3
[training]
train = "probe"
epochs = 2
[optimizer]
lr = 0.5
[data]
data = "photos"
""")
    recipe = make_recipe(file)
    assert (recipe.seed, recipe.train, recipe.epochs, recipe.lr) == (3, "probe", 2, 0.5)
    assert recipe.data == "photos"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[training]\nlr = 0.5\n", r"lr .*\[training\].*\[optimizer\]"),
        ("[training]\nlrr = 0.5\n", "'lrr'.*'lr'"),
        ("lr = 0.1\n[optimizer]\nlr = 0.5\n", "lr .*twice"),
        ("[trainings]\nlr = 0.5\n", "'trainings'"),
    ],
)
def test_a_key_in_another_table_is_an_error(text, named):
    with pytest.raises(RecipeError, match=named):
        make_recipe(write(text))


def test_where_values_came_from_is_a_comment():
    recipe = Recipe(lr=0.5, epochs=3)
    origins = {"lr": "given", "epochs": "decided: why\nnot", "seed": "default"}
    text = dump_recipe(recipe, origins=origins)
    assert "lr = 0.5  # given\n" in text
    assert "epochs = 3  # decided: why\\nnot\n" in text
    assert "\nseed = 0\n" in text
    assert make_recipe(write(text)).model_dump() == recipe.model_dump()
