"""Which libraries a plugin's functions import, and what they do where one is missing."""

from __future__ import annotations

import builtins
import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType
from unittest import mock

from zoo.hookspecs import DISTRIBUTION
from zoo.plugins import explain, off_stdout
from zoo.testing.subject import CheckFailed, CheckSkipped

#: Requirements of zoo whose modules have other names.
_DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}


def check_missing_reported(libraries: Iterable[str], run: Callable[[], object]) -> None:
    """Check that a function raises ModuleNotFoundError for each library that is missing.

    Raises:
        CheckFailed: It raises another exception, or this one itself.
        CheckSkipped: All libraries come with zoo.
    """
    needed = sorted(name for name in libraries if not _comes_with_zoo(name))
    if not needed:
        raise CheckSkipped("it imports no library that does not come with zoo")
    for library in needed:
        try:
            with _missing(library), off_stdout([]):
                run()
        except ModuleNotFoundError:
            continue
        except CheckFailed:
            raise
        except (Exception, SystemExit) as error:
            raise CheckFailed(
                f"without {library} it raises {explain(error)}: import libraries inside the "
                f"functions, and let the ModuleNotFoundError through; zoo reports what to install"
            ) from error


@contextmanager
def imports_of(function: Callable[..., object], found: set[str]) -> Iterator[None]:
    """Add to a set the libraries that the package of a function imports meanwhile."""
    package = _top(_unwrapped(function).__module__)
    plain_import, plain_function = builtins.__import__, importlib.import_module

    def record(name: str) -> None:
        caller = sys._getframe(2).f_globals.get("__name__") or ""
        if _top(caller) == package != _top(name):
            found.add(_top(name))

    def by_statement(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        if level == 0:
            record(name)
        return plain_import(name, globals, locals, fromlist, level)

    def by_function(name: str, package: str | None = None) -> ModuleType:
        if package is None:
            record(name)
        return plain_function(name, package)

    with (
        mock.patch.object(builtins, "__import__", by_statement),
        mock.patch.object(importlib, "import_module", by_function),
    ):
        yield


@contextmanager
def _missing(library: str) -> Iterator[None]:
    """Let imports of a library fail. Other modules that are imported meanwhile remain."""
    names = {n for n in sys.modules if n == library or n.startswith(f"{library}.")} | {library}
    hidden = {name: sys.modules.pop(name, None) for name in names}
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _unwrapped(function: Callable[..., object]) -> Callable[..., object]:
    return _unwrapped(function.func) if isinstance(function, functools.partial) else function


def _top(name: str) -> str:
    return name.partition(".")[0]


def _comes_with_zoo(library: str) -> bool:
    """Whether a module is of Python's standard library, of zoo or of what zoo requires."""
    if library in sys.stdlib_module_names or library == "zoo":
        return True
    return _normal(_DISTRIBUTIONS.get(library, library)) in _required()


@functools.cache
def _required() -> frozenset[str]:
    """Return the names of the distributions that zoo requires without extras."""
    plain = (r for r in metadata.requires(DISTRIBUTION) or () if "extra ==" not in r)
    names = (re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in plain)
    return frozenset(map(_normal, names))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
