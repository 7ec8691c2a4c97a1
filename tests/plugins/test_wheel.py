"""A third party's package, from its sources to its removal, in a virtual environment of its own."""

import json
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import QUICK, zoo_

ACME = Path(__file__).parents[1] / "acme"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees the running one's packages, zoo and torch among them."""

    python: str

    def run(self, *words: str, expect: int = 0, **options) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.python, "-m", *words], capture_output=True, text=True, check=False, **options
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    def zoo(self, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run("zoo", *words, expect=expect)

    def plugins(self) -> dict[str, dict]:
        return {p["name"]: p for p in json.loads(self.zoo("plugins", "--format", "json").stdout)}

    def pip(self, *words: str) -> None:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--python", self.python, *words], check=True)


@pytest.fixture
def environment(tmp_path):
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout
    outer = sysconfig.get_path("purelib")
    (Path(own.strip()) / "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n")
    return Environment(python)


def wheel_of(package: Path, folder: Path) -> str:
    """Build it, without a network."""
    words = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", *words, "--wheel-dir", str(folder), str(package)], check=True
    )
    (wheel,) = folder.glob("*.whl")
    return str(wheel)


def use(environment: Environment, name: str, photos: Path) -> None:
    """Fine-tune with the backbone and predict with the run, which stays as `run`."""
    quick = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items() if k != "backbone"]
    out = environment.zoo("finetune", f"--backbone={name}", f"--data={photos}", "--out=run", *quick)
    assert "val accuracy" in out.stdout
    predicted = environment.zoo("predict", "run", str(photos / "red"), "--format=json").stdout
    assert [p["label"] in ("blue", "green", "red") for p in json.loads(predicted)] == 10 * [True]


def test_a_wheel_is_installed_found_checked_used_and_removed(environment, tmp_path, photos):
    """docs/plugins.md's plugin."""
    assert "acme" not in environment.plugins()
    environment.pip("install", "--no-deps", "--no-index", wheel_of(ACME, tmp_path / "wheels"))
    acme = environment.plugins()["acme"]
    assert (acme["distribution"], acme["version"], acme["state"]) == ("zoo-acme", "1.0", "ok")
    listed = json.loads(environment.zoo("backbones", "acme/*", "--format", "json").stdout)
    assert [b["name"] for b in listed] == ["acme/tinynet"]
    assert "acme/tinynet " in environment.zoo("check", "--plugin", "zoo-acme").stdout
    use(environment, "tinynet", photos)

    environment.pip("uninstall", "--yes", "zoo-acme")
    assert "acme" not in environment.plugins()
    gone = "no plugin 'acme' is installed (asked for backbone 'acme/tinynet'); installed plugins: "
    assert gone in environment.zoo("show", "acme/tinynet", expect=2).stderr
    old = environment.zoo("predict", "run", str(photos / "red"), expect=2).stderr
    assert f"needs backbone acme/tinynet: {gone}" in old


def test_a_new_plugin_is_installed_tested_used_and_removed(environment, tmp_path, photos):
    """As zoo new-plugin's answer says, first from its sources, then as a wheel."""
    sources = tmp_path / "sources"
    sources.mkdir()
    environment.zoo("new-plugin", "my-nets", "--out", str(sources))
    package = sources / "zoo-my-nets"
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    environment.pip("install", *offline, "--editable", str(package))
    tested = environment.run("pytest", "-q", "-p", "no:cacheprovider", cwd=package).stdout
    assert " passed" in tested
    taken = environment.zoo("new-plugin", "My_Nets", "--out", str(sources), expect=2).stderr
    assert "'My_Nets' is taken by the installed plugin my-nets (zoo-my-nets 0.1.0)" in taken

    environment.pip("uninstall", "--yes", "zoo-my-nets")
    assert "my-nets" not in environment.plugins()
    environment.pip("install", "--no-deps", "--no-index", wheel_of(package, tmp_path / "wheels"))
    found = environment.plugins()["my-nets"]
    assert (found["state"], found["backbones"]) == ("ok", 1)
    environment.zoo("check", "my-nets/smallnet")
    use(environment, "smallnet", photos)

    environment.pip("uninstall", "--yes", "zoo-my-nets")
    assert "no plugin 'my-nets' is" in environment.zoo("show", "my-nets/smallnet", expect=2).stderr
    old = zoo_("predict", "run", str(photos / "red"), code=2)
    assert "needs backbone my-nets/smallnet: no plugin 'my-nets' is installed" in old.stderr
