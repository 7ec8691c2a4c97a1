"""README, docs and recipes are true."""

import functools
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
import pytest

import zoo
from tests.conftest import QUICK, TINY, make_photos, zoo_
from zoo import plugins
from zoo.cli import COMMANDS, main
from zoo.recipe import Recipe, make_recipe

ROOT = Path(__file__).parents[1]

#: What a reader has imported, beside what a block itself imports.
LIBRARIES = ("safetensors.torch", "timm", "torch", "torchvision", "transformers", "zoo")

#: Checkpoints of the Hub in the code of the pages, and the backbone of their architecture, which
#: takes their place because tests have no network.
CHECKPOINTS = {"hf-hub:google/mobilenet_v2_1.0_224": "transformers/mobilenet_v2"}

#: Words in names of backbones that stand for what the reader puts there.
PLACEHOLDERS = {"CHECKPOINT", "BACKBONE", "NAME", "OWNER", "PATH", "TAG", "TEXT"}

RECIPES = sorted((ROOT / "zoo" / "recipe" / "packaged").glob("*.toml"))


def commands_in(markdown: str) -> list[str]:
    """The lines of its shell blocks that call zoo."""
    blocks = re.findall(r"```(?:console|sh|bash)\n(.*?)```", markdown, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.split(" && ")[-1] for line in lines if re.search(r"(^|&& )zoo ", line)]


def test_the_readmes_commands_are_understood():
    """Read as the command line reads them, and not run."""
    make_photos(Path("photos"), 1)
    commands = commands_in((ROOT / "README.md").read_text())
    assert len(commands) >= 6
    for line in commands:
        words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
        # With its parent, whose names of the help option a command would else remember otherwise.
        command, context = main, click.Context(main, **main.context_settings)
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
        command.make_context(command.name, words, parent=context).close()


@pytest.mark.slow
def test_the_readmes_commands_run_in_their_order():
    """All but the demo's, which takes a minute (below)."""
    make_photos(Path("photos"), 6)
    shutil.copy(Path("photos/red/0.png"), "photo.jpg")
    commands = commands_in((ROOT / "README.md").read_text())
    assert len(commands) >= 6
    for command in commands:
        words = shlex.split(command.partition(" > ")[0], comments=True)[1:]
        if words[0] == "finetune" and "--data" not in words and "--recipe" not in words:
            continue
        quick = ["--image-size", "32", "--epochs", "1"] if words[0] == "finetune" else []
        zoo_(*words, *quick)


@pytest.mark.medium
def test_what_the_readme_ships_predicts_without_zoo(run, split_photos):
    """The section's commands, with a finished run; each file's script runs."""
    shutil.copytree(run.path, "bugs")
    section = (ROOT / "README.md").read_text().partition("\n## Ship it\n")[2].partition("\n## ")[0]
    commands = commands_in(section)
    assert len(commands) >= 3
    for command in commands:
        zoo_(*shlex.split(command)[1:])
    scripts = sorted(Path().glob("*.predict.py"))
    assert len(scripts) == len(commands)
    photo = next((split_photos / "val" / "red").glob("*.png"))
    expected = run.predict(photo)[0].label
    for script in scripts:
        words = [sys.executable, str(script), str(photo)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["label"] == expected


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["zoo/efficientnet_lite0", "torchvision/resnet18"])
def test_the_demo_teaches_handwritten_digits(backbone):
    """README's first command, from pretrained weights and (no network here) from random ones."""
    zoo_("finetune", "--backbone", backbone, "--out", "run")
    accuracy = re.search(r"accuracy  ([\d.]+)%", zoo_("evaluate", "run").stdout)
    assert accuracy is not None
    assert float(accuracy.group(1)) > 95


def code_in(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


#: Marks of the pages whose code takes long.
LENGTHS = dict.fromkeys(("README", "transformers"), "medium") | dict.fromkeys(
    ("compare", "exports", "python", "tune"), "slow"
)

PAGES = [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if code_in(p)]


@pytest.mark.parametrize(
    "page",
    # These take many seconds each.
    [
        pytest.param(
            p,
            marks=[getattr(pytest.mark, LENGTHS[p.stem])] if p.stem in LENGTHS else [],
        )
        for p in PAGES
    ],
    ids=lambda p: p.stem,
)
def test_the_code_of_a_page_runs(page, install, monkeypatch, tmp_path):
    """Block after block, as it stands, but with a tiny network of random weights."""
    shutil.rmtree(make_photos(Path("photos"), 6) / "green")
    shutil.copy("photos/red/0.png", "photo.jpg")
    finetune, build, tune = zoo.finetune, zoo.build, zoo.tune

    def finetune_quickly(*args, **fields):
        name = fields.get("backbone", Recipe().backbone)
        if name.startswith("hf-hub:"):
            return finetune(*args, **fields | QUICK | {"backbone": CHECKPOINTS[name]})
        plugins.get(name)  # raises if it is unknown
        return finetune(*args, **fields | QUICK)

    def tune_quickly(*args, **fields):
        return tune(*args, **fields | QUICK | {"trials": 2})

    monkeypatch.setattr(zoo, "finetune", finetune_quickly)
    monkeypatch.setattr(zoo, "tune", tune_quickly)
    monkeypatch.setattr(zoo, "build", functools.partial(build, weights="none"))
    for plugin, module in (("acme", "zoo_acme"), ("twins", "zoo_twins")):
        code = ROOT / "tests" / plugin / f"{module}.py"
        install(f"zoo-{plugin}", plugin, module, code.read_text())
    shutil.copy(ROOT / "tests" / "twins" / "twinnet.py", tmp_path)
    if page.name == "plugins.md":
        for plugin, hook in (
            ("tar", "zoo_sources"),
            ("lines", "zoo_loggers"),
            ("own", "zoo_losses"),
        ):
            code = next(code for code in code_in(page) if f"def {hook}" in code)
            install(f"zoo-{plugin}", plugin, f"documented_{plugin}", code)
    known = {}
    exec("\n".join(f"import {name}" for name in LIBRARIES), known)
    for n, code in enumerate(code_in(page)):
        if page.name == "README.md" and n < 2:  # "bugs" is of timm here, and of torchvision there
            shutil.rmtree("bugs", ignore_errors=True)
            fields = {**QUICK, "backbone": [TINY, "resnet18"][n], "train": "probe"}
            finetune("photos", out="bugs", **fields)
        exec(compile(code, f"{page.name}, block {n}", "exec"), known)


@pytest.mark.medium
@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=[] if file.stem == "quick" else pytest.mark.slow)
        for file in RECIPES
    ],
    ids=lambda file: file.stem,
)
def test_every_recipe_runs_as_it_stands(file):
    """With its own settings but for weights, size and length, which cost minutes and downloads."""
    make_photos(Path("photos"), 6)
    quick = {k: v for k, v in QUICK.items() if k not in ("backbone", "batch_size")}
    if file.stem.startswith(("timm-", "hf-")):  # Of large networks.
        quick["backbone"] = "timm/test_vit"
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in quick.items()]
    zoo_("finetune", "--recipe", file.stem, "--data", "photos", "--out", "run", *flags)
    sections = tomllib.loads(Path("run/recipe.toml").read_text())
    ran = {key: value for section in sections.values() for key, value in section.items()}
    given = tomllib.loads(file.read_text())
    assert {k: v for k, v in ran.items() if k in given and k not in quick | {"backbone": 0}} == {
        k: v for k, v in given.items() if k not in quick | {"backbone": 0}
    }
    assert file.read_text().startswith(f"# zoo finetune --recipe {file.stem} ")


def test_the_article_is_followed_to_the_letter():
    recipe = make_recipe("article")
    told = {
        "backbone": "torchvision/resnet18",
        "train": "finetune",
        "weights": "pretrained",
        "head_init": "xavier_uniform",
        "optimizer": "sgd",
        "lr": 0.0005,
        "head_lr_mult": 80.0,
        "weight_decay": 0.001,
        "wd_on_norms": True,
        "clip_grad": 0.0,
        "momentum": 0.0,
        "epochs": 15,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "batch_norm": "train",
        "label_smoothing": 0.0,
    }
    assert recipe.model_dump().items() >= told.items()


def script(name: str) -> ModuleType:
    """A script of docs/, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_page_is_the_help_as_it_stands():
    make_cli = script("make_cli")
    assert make_cli.PAGE.read_text() == make_cli.page(), "run python docs/make_cli.py"


def test_the_defaults_page_states_the_defaults():
    text = (ROOT / "docs" / "defaults.md").read_text()
    stated = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE))
    assert stated
    for name, value in stated.items():
        default = Recipe.model_fields[name].default
        assert value == (f"{default:g}" if isinstance(default, float) else str(default)), name


def test_every_public_name_is_documented_in_the_python_page():
    text = (ROOT / "docs" / "python.md").read_text()
    assert [n for n in zoo.__all__ if f"zoo.{n}" not in text] == []


def test_links_between_the_pages_lead_somewhere():
    docs = ROOT / "docs"
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs.glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            built = page.parent == docs and target == "backbones.md"
            if target.startswith("notebooks/"):
                target = target.replace(".md", ".ipynb")
            assert built or (page.parent / target).exists(), f"{page.name}: {target}"


def backbones_in(markdown: str) -> set[str]:
    """The backbones of options, commands and arguments, and those in text with their plugin."""
    patterns = (
        r"--backbone[ =]([\w./:@-]+)",
        r"(?m)^zoo (?:show|bench|weights (?:where|fetch|add)) (\w[\w./:@-]+)",
        r'backbone="([^"]+)"',
        r"`((?:timm|torchvision|transformers|zoo)/[\w.-]+)`",
        r"`(hf-hub:[\w./@-]+)`",
    )
    found = {name for pattern in patterns for name in re.findall(pattern, markdown)}
    names = {name.removesuffix("@REVISION") for name in found} - {"auto"}
    return {name for name in names if not PLACEHOLDERS & set(re.split(r"\W", name))}


def check_checkpoint(name: str) -> None:
    """OWNER/NAME is a repository from which timm or transformers says it has weights."""
    if name.startswith("timm/"):
        assert plugins.get(name).weights.hub == name
        return
    (folder,) = importlib.util.find_spec("transformers").submodule_search_locations
    files = Path(folder, "models").glob("*/configuration_*.py")
    assert any(f'checkpoint="{name}"' in file.read_text() for file in files), name


@pytest.mark.parametrize(
    "page",
    # The plugins of plugins.md declare its backbones, and its code is run.
    [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if p.stem != "plugins"],
    ids=lambda page: page.stem,
)
def test_the_backbones_that_a_page_names_exist(page):
    for name in backbones_in(page.read_text()):
        if name.startswith("hf-hub:"):
            check_checkpoint(name.removeprefix("hf-hub:"))
        else:
            plugins.get(name)


def test_the_backbones_page_lists_every_backbone_and_every_network_left_out():
    page = script("backbones_page").page()
    for name in ("torchvision", "timm", "transformers", "zoo"):
        section = page.partition(f"\n## {name}: ")[2].partition("\n## ")[0]
        rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
        heads = {f"{name}/{row[0].strip('| `')}": row[4] for row in rows}
        plugin = plugins.load(name)
        assert heads == {b.name: ", ".join(b.head_paths) for b in plugin.backbones.values()}
        listed = re.findall(r"^- `(.+?)`: ", section, re.MULTILINE)
        assert listed == [left_out.name for left_out in plugin.left_out.values()]


def test_every_command_is_in_the_readme_or_the_command_line_page():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "cli.md").read_text()
    assert [c for c in COMMANDS if f"zoo {c}" not in text] == []
