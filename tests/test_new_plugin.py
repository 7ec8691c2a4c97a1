"""zoo new-plugin writes a package that works as it stands, or nothing."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import zoo_
from zoo.cli.new_plugin import KINDS
from zoo.plugins.template import module_name
from zoo.testing import write_images
from zoo.testing.run import check_one, declared_by

ROOT = Path(__file__).parents[1]


def everything(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_a_package_is_written_and_the_next_steps_said():
    result = zoo_("new-plugin", "acme2")
    assert everything(Path.cwd()) == [
        "zoo-acme2",
        "zoo-acme2/.github",
        "zoo-acme2/.github/workflows",
        "zoo-acme2/.github/workflows/test.yml",
        "zoo-acme2/.gitignore",
        "zoo-acme2/README.md",
        "zoo-acme2/pyproject.toml",
        "zoo-acme2/src",
        "zoo-acme2/src/zoo_acme2",
        "zoo-acme2/src/zoo_acme2/__init__.py",
        "zoo-acme2/src/zoo_acme2/smallnet.py",
        "zoo-acme2/tests",
        "zoo-acme2/tests/test_conformance.py",
    ]
    for step in ("cd zoo-acme2", "pip install -e '.[test]' && pytest", "--backbone acme2/smallnet"):
        assert step in result.stdout


@pytest.mark.parametrize("kind", ["source", "exporter", "logger", "loss", "transform"])
def test_what_a_plugin_of_another_kind_declares_passes_the_checks(kind, install):
    """Fast, for which the slow test runs the package's own tests."""
    name, module = f"my-{kind}", f"zoo_my_{kind}"
    zoo_("new-plugin", name, "--kind", kind)
    code = Path(f"zoo-{name}/src/{module}/__init__.py").read_text()
    install(f"zoo-{name}", name, module, code)
    images = write_images("photos")
    data = f"{name}:{shutil.make_archive('photos', 'zip', images)}"
    assert declared_by(name) == [(kind, name)]
    results = check_one(kind, name, data)
    assert {r.message for r in results if r.status == "failed"} == set()
    assert "passed" in {r.status for r in results}


def test_kinds_share_their_files_and_say_what_they_are():
    for kind in KINDS:
        result = zoo_("new-plugin", f"own-{kind}", "--kind", kind)
        package = Path(f"zoo-own-{kind}")
        names = {".github", ".gitignore", "README.md", "pyproject.toml", "src", "tests"}
        assert {p.name for p in package.iterdir()} == names
        project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
        assert "zoo-finetune" in project["dependencies"]
        readme = (package / "README.md").read_text()
        assert project["description"] in readme
        commands = re.findall(r"^    (zoo .*)$", readme, re.MULTILINE)
        assert commands
        assert all(command in result.stdout for command in commands)
        for module in (package / "src" / f"zoo_own_{kind}").iterdir():
            assert f"`src/zoo_own_{kind}/{module.name}`" in readme


def test_a_kind_that_is_none_is_refused():
    zoo_("new-plugin", "acme2", "--kind", "head", code=2)
    assert everything(Path.cwd()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["acme2", "My-Own_nets", "2nd", "x"])
def test_every_name_is_put_in_its_place(name, kind):
    zoo_("new-plugin", name, "--kind", kind)
    package = Path(f"zoo-{name}")
    project = tomllib.loads((package / "pyproject.toml").read_text())
    module = module_name(name)
    assert module.isidentifier()
    assert project["project"]["name"] == f"zoo-{name}"
    assert project["project"]["entry-points"]["zoo"] == {name: module}
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    assert own in project["project"]["dependencies"]
    test = (package / "tests" / "test_conformance.py").read_text()
    assert f'conformance_suite(plugin="{name}"' in test
    for file in (p for p in package.rglob("*") if p.is_file()):
        assert "$" not in file.read_text().replace("${{ matrix.python }}", ""), file


@pytest.mark.parametrize("kind", KINDS)
def test_the_written_code_is_clean(kind):
    zoo_("new-plugin", "acme2", "--kind", kind)
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", "zoo-acme2"]
    rules = ["--ignore", "D107,PTH123,S101,SIM115"]
    subprocess.run([sys.executable, "-m", "ruff", "check", *rules, *settings], check=True)
    subprocess.run([sys.executable, "-m", "ruff", "format", "--check", *settings], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_written_tests_pass(kind):
    """As after pip's installation, of which the metadata is what counts."""
    zoo_("new-plugin", "acme2", "--kind", kind)
    source = Path("zoo-acme2", "src").resolve()
    info = source / "zoo_acme2-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-acme2\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[zoo]\nacme2 = zoo_acme2\n")
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error"],
        cwd="zoo-acme2",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.parametrize("name", ["", "-x", "x-", "a/b", "../up", "a b", "a.b", "naïve", "a\n"])
def test_a_name_that_is_none_is_refused(name):
    result = zoo_("new-plugin", "--", name, code=2)
    assert f"plugin name {name!r}: " in result.stderr
    assert everything(Path.cwd()) == []


@pytest.mark.parametrize("name", ["timm", "Timm", "zoo", "finetune", "Finetune"])
def test_the_name_of_an_installed_plugin_or_of_zoos_own_package_is_refused(name):
    result = zoo_("new-plugin", name, code=2)
    assert repr(name) in result.stderr
    of_plugin = f"{name.lower()} (zoo-finetune 0." in result.stderr
    assert of_plugin == (name.lower() != "finetune")
    assert everything(Path.cwd()) == []


def test_the_name_of_an_installed_module_is_refused(tmp_path, monkeypatch):
    (tmp_path / "zoo_taken.py").write_text("raise OSError('it is not imported for that')")
    monkeypatch.syspath_prepend(tmp_path)
    result = zoo_("new-plugin", "taken", code=2)
    assert "zoo_taken" in result.stderr


def test_an_existing_folder_is_left_as_it_is():
    Path("zoo-acme2").mkdir()
    Path("zoo-acme2/mine.txt").write_text("mine")
    result = zoo_("new-plugin", "acme2", code=2)
    assert "zoo-acme2" in result.stderr
    assert "--out" in result.stderr
    assert everything(Path.cwd()) == ["zoo-acme2", "zoo-acme2/mine.txt"]


def test_what_cannot_be_written_leaves_nothing_behind(monkeypatch):
    result = zoo_("new-plugin", "x" * 300, code=2)
    assert os.strerror(errno.ENAMETOOLONG) in result.stderr
    assert everything(Path.cwd()) == []

    write, files = Path.write_text, []

    def full_after_three(path, *args, **options):
        files.append(path)
        if len(files) > 3:
            raise OSError(28, "No space left on device")
        return write(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", full_after_three)
    result = zoo_("new-plugin", "acme2", code=2)
    assert re.search("zoo-acme2 .*No space left on device", result.stderr)
    assert everything(Path.cwd()) == []


def test_the_folder_to_write_into_must_be_there():
    result = zoo_("new-plugin", "acme2", "--out", "nowhere", code=2)
    assert "--out" in result.stderr
    assert "'nowhere'" in result.stderr


def test_the_template_and_the_recipes_are_in_the_wheel(tmp_path):
    sources = tmp_path / "sources"
    ignore = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "tests", "bench", "docs")
    shutil.copytree(ROOT, sources, ignore=ignore)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=sources, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("zoo_finetune-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    for folder in ("plugin_template", "recipe/packaged"):
        every = (p for p in (ROOT / "zoo" / folder).rglob("*") if p.is_file())
        files = {p.relative_to(ROOT).as_posix() for p in every}
        assert files
        assert files <= packed
