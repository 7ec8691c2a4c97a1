"""The conformance kit as a pytest test."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from zoo import plugins
from zoo.errors import PluginError
from zoo.testing.run import CheckResult, check_backbone, check_names


def conformance_suite(
    *names: str, plugin: str | None = None, expected_failures: Mapping[str, str] | None = None
) -> Callable[[str, str], None]:
    """Return a parametrized pytest test with a case for each backbone and check.

        test_conformance = conformance_suite(plugin="acme")

    Args:
        *names: Names of backbones.
        plugin: Entry-point or distribution name of a plugin, to test all its backbones.
        expected_failures: Reasons, by name of the check; these cases are strict xfails.

    Raises:
        PluginError: The plugin is not installed, can't be loaded or declares no backbones, so that
            no test could fail.
    """
    import pytest

    wanted = [plugins.get(name).name for name in names]
    if plugin is not None:
        wanted += [name for found in plugins.of(plugin) for name in found.backbones]
    if not wanted:
        raise PluginError(f"nothing to check: plugin {plugin} declares no backbones")

    @functools.lru_cache(maxsize=1)
    def results(name: str) -> dict[str, CheckResult]:
        return {r.check: r for r in check_backbone(name, expected_failures=expected_failures)}

    # All cases of a backbone run in sequence, because only the last backbone's results are cached.
    @pytest.mark.parametrize("check", check_names())
    @pytest.mark.parametrize("backbone", wanted)
    def test_conformance(backbone: str, check: str) -> None:
        result = results(backbone)[check]
        if result.status == "failed":
            pytest.fail(f"{backbone}: {result.message}", pytrace=False)
        if result.status == "expected failure":
            pytest.xfail(result.message)
        if result.status == "skipped":
            pytest.skip(result.message)

    return test_conformance
