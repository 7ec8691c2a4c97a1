"""The conformance kit as a pytest test."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

from zoo import plugins
from zoo.errors import PluginError
from zoo.testing.run import CheckResult, check_names, check_one, declared_by
from zoo.testing.subject import Kind


def conformance_suite(
    *names: str,
    plugin: str | None = None,
    data: Mapping[str, Callable[[Path], str]] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[[Kind, str, str], None]:
    """Return a parametrized pytest test with a case for each check of what a plugin declares.

        test_conformance = conformance_suite(plugin="acme")

    Args:
        *names: Names of backbones.
        plugin: Entry-point or distribution name of a plugin, to test everything that it
            declares.
        data: For each source of the plugin, by its name, a function that writes a few images into
            an empty folder and returns the value of `data` that is for them.
        expected_failures: Reasons, by name of the check; these cases are strict xfails.

    Raises:
        PluginError: The plugin is not installed, can't be loaded or declares nothing that can be
            checked, so that no test could fail; a source has no data; or a check is unknown.
    """
    import pytest

    wanted: list[tuple[Kind, str]] = [("backbone", plugins.get(name).name) for name in names]
    wanted += declared_by(plugin) if plugin is not None else []
    _refuse_what_is_untested(wanted, data or {}, expected_failures or {})

    @functools.lru_cache(maxsize=1)
    def results(kind: Kind, name: str) -> dict[str, CheckResult]:
        with tempfile.TemporaryDirectory() as folder:
            own = data[name](Path(folder)) if kind == "source" and data else ""
            return {r.check: r for r in check_one(kind, name, own, expected_failures)}

    # All cases of a subject run in sequence, because only the last one's results are cached.
    @pytest.mark.parametrize(
        ("kind", "name", "check"),
        [
            pytest.param(kind, name, check, id=f"{name}-{check}")
            for kind, name in wanted
            for check in check_names(kind)
        ],
    )
    def test_conformance(kind: Kind, name: str, check: str) -> None:
        result = results(kind, name)[check]
        if result.status == "failed":
            pytest.fail(f"{kind} {name}: {result.message}", pytrace=False)
        if result.status == "expected failure":
            pytest.xfail(result.message)
        if result.status == "skipped":
            pytest.skip(result.message)

    return test_conformance


def _refuse_what_is_untested(
    wanted: Sequence[tuple[Kind, str]], data: Container[str], expected: Iterable[str]
) -> None:
    if not wanted:
        raise PluginError("nothing to check: give the name of a backbone, or a plugin")
    for kind, name in wanted:
        if kind == "source" and name not in data:
            raise PluginError(
                f"source {name} can't be checked without data of its own",
                hint="give `data` a function by that name",
            )
    known = {check for kind, _ in wanted for check in check_names(kind)}
    for name in expected:
        if name not in known:
            raise PluginError(f"no check {name!r}; checks: {', '.join(sorted(known))}")
