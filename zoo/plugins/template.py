"""Write the package of a new plugin from `zoo/plugin_template/`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from zoo.errors import PluginError
from zoo.hookspecs import DISTRIBUTION
from zoo.plugins.discovery import found, installed

_VALID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")

#: Path in the package -> file of the template, of every kind; each kind adds its own folder's.
_FILES = {
    "pyproject.toml": "pyproject.toml.tmpl",
    "README.md": "README.md.tmpl",
    ".gitignore": "gitignore.tmpl",
    ".github/workflows/test.yml": "test.yml.tmpl",
}


@dataclass(frozen=True, kw_only=True)
class NewPackage:
    """The package that was written; the first of its modules has the declaration."""

    folder: Path
    modules: tuple[Path, ...]
    use: tuple[str, ...]


def write_package(name: str, folder: Path, kind: str = "backbone") -> NewPackage:
    """Write the package `zoo-<name>`, a plugin that declares one small thing, into a folder.

    Args:
        name: Entry-point name of the plugin: letters, digits, `-` and `_`.
        folder: Folder in which the package's own folder is created.
        kind: What it declares, a folder of the template: `backbone`, `source`, `exporter`,
            `logger`, `loss` or `transform`.

    Raises:
        PluginError: If the name is invalid or taken, or the package's folder exists or can't be
            written. No incomplete files remain.
    """
    if not _VALID.fullmatch(name):
        raise PluginError(
            f"plugin name {name!r}: use letters, digits, '-' and '_', with a letter or digit at "
            f"both ends"
        )
    template = resources.files("zoo") / "plugin_template"
    own = tomllib.loads((template / kind / "kind.toml").read_text(encoding="utf-8"))
    words = {"name": name, "distribution": f"zoo-{name}", "module": module_name(name)}
    _refuse_taken(name, words["module"])
    use = tuple(Template(line).substitute(words) for line in own["use"])
    rows = [f"| `src/{words['module']}/{file}` | {what} |" for file, what in own["modules"].items()]
    words |= {
        "description": own["description"],
        "dependencies": json.dumps(own["dependencies"]),
        "use": "\n".join(f"    {line}" for line in use),
        "modules": "\n".join(rows),
    }
    files = {**_FILES, "tests/test_conformance.py": f"{kind}/test_conformance.py.tmpl"}
    files |= {f"src/$module/{file}": f"{kind}/{file}.tmpl" for file in own["modules"]}
    package = folder / words["distribution"]
    # Written under another name, then renamed, so that it is never seen incomplete.
    beside = folder / f".{package.name}.{os.getpid()}"
    try:
        if package.exists():
            raise PluginError(
                f"{package} exists already", hint="move it away, or choose another `out`"
            )
        for target, source in files.items():
            path = beside / Template(target).substitute(words)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = Template((template / source).read_text(encoding="utf-8")).substitute(words)
            path.write_text(text, encoding="utf-8")
        beside.rename(package)
    except OSError as error:
        raise PluginError(f"{package} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    modules = tuple(package / "src" / words["module"] / file for file in own["modules"])
    return NewPackage(folder=package, modules=modules, use=use)


def module_name(name: str) -> str:
    """Return the import name of a plugin's package: `my-nets` -> `zoo_my_nets`."""
    return f"zoo_{name.lower().replace('-', '_')}"


def _refuse_taken(name: str, module: str) -> None:
    if module_name(name) == DISTRIBUTION.replace("-", "_"):
        raise PluginError(f"the name {name!r} is taken by zoo itself", hint="choose another")
    # As in pip, case and '-' or '_' don't distinguish two packages.
    for other in installed():
        if module_name(other) == module:
            raise PluginError(
                f"the name {name!r} is taken by the installed plugin {found(other)}",
                hint="choose another",
            )
    if importlib.util.find_spec(module) is not None:
        raise PluginError(
            f"the name {name!r} is taken: a module {module} is installed",
            hint="choose another",
        )
