"""Run the checks on what a plugin declares, and return the results."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import PluginError, ZooError
from zoo.events import Listener
from zoo.exporter import Exporter
from zoo.hookspecs import Factory
from zoo.testing.checks import (
    CHECKS,
    EXPORTER_CHECKS,
    LOGGER_CHECKS,
    LOSS_CHECKS,
    NAMES,
    SOURCE_CHECKS,
    TRANSFORM_CHECKS,
    Check,
)
from zoo.testing.exporters import ExporterSubject
from zoo.testing.loggers import LoggerSubject
from zoo.testing.losses import LossSubject
from zoo.testing.sources import SourceSubject
from zoo.testing.subject import CheckFailed, CheckSkipped, Kind, Subject, Tested
from zoo.testing.transforms import TransformSubject

T = TypeVar("T", bound=Tested)

Status = Literal["passed", "failed", "skipped", "expected failure"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of a check.

    Attributes:
        kind: What was checked: `backbone`, `source`, `exporter`, `logger`, `loss` or `transform`.
        name: Its name; the full one of a backbone.
        check: Name of the check: `check_...`.
        status: `passed`, `failed`, `skipped`, or `expected failure`.
        message: If failed, what the author must change; else why it was skipped or expected.
        seconds: Duration of the check.
    """

    kind: Kind = "backbone"
    name: str
    check: str
    status: Status
    message: str = ""
    seconds: float = 0.0


def check_names(kind: Kind = "backbone") -> tuple[str, ...]:
    """Return the names of all checks of a kind, in the order in which they run."""
    return NAMES[kind]


def check_backbone(
    backbone: str | Backbone,
    *,
    shapes_only: bool = False,
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Check that a backbone fulfils the contract between zoo and its plugins.

    No weights are downloaded. A backbone whose pretrained weights are not on this machine is
    checked without them, and the result says so.

    Args:
        backbone: The name or declaration of the backbone.
        shapes_only: Run only the checks that need no values, on torch's meta device, for many or
            very large networks.
        expected_failures: Reasons, by name of the check. A check that passes although it is
            expected to fail counts as failed.

    Returns:
        A result for each check, in order; those with `status == "failed"` must be fixed.

    Raises:
        PluginError: There is no such backbone (an `UnknownBackboneError`), or
            `expected_failures` has the name of an unknown check.
    """
    if isinstance(backbone, str):
        backbone = plugins.get(backbone)
    subject = Subject(backbone, torch.device("meta" if shapes_only else "cpu"))
    return list(run_checks(subject, CHECKS, expected_failures))


def check_source(
    source: str | Callable[[str], object],
    data: str,
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Check that a data source fulfils the contract between zoo and its plugins.

    Args:
        source: The name of the source, or the function that its plugin declares.
        data: A value of `data` that is for it, with a few images; `write_images` writes some.
        expected_failures: As in `check_backbone`, as are the results and errors.
    """
    name, opener = _declared("zoo_sources", source)
    return list(run_checks(SourceSubject(name, opener, data), SOURCE_CHECKS, expected_failures))


def check_exporter(
    exporter: str | Exporter, *, expected_failures: Mapping[str, str] | None = None
) -> list[CheckResult]:
    """Check that an exporter fulfils the contract, by a small model that it writes and opens.

    Args:
        exporter: The name of the format, or its declaration.
        expected_failures: As in `check_backbone`, as are the results and errors.
    """
    name, declared = _declared("zoo_exporters", exporter)
    with tempfile.TemporaryDirectory() as folder:
        subject = ExporterSubject(name, declared, Path(folder))
        return list(run_checks(subject, EXPORTER_CHECKS, expected_failures))


def check_logger(
    logger: str | Callable[[], Listener], *, expected_failures: Mapping[str, str] | None = None
) -> list[CheckResult]:
    """Check that a logger fulfils the contract, by the events of short runs.

    What it logs elsewhere than to the run folder, such as to a server, it logs for real.

    Args:
        logger: The name of the logger, or the function that its plugin declares.
        expected_failures: As in `check_backbone`, as are the results and errors.
    """
    name, make = _declared("zoo_loggers", logger)
    with tempfile.TemporaryDirectory() as folder:
        subject = LoggerSubject(name, make, Path(folder))
        return list(run_checks(subject, LOGGER_CHECKS, expected_failures))


def check_loss(
    loss: str | Factory, *, expected_failures: Mapping[str, str] | None = None
) -> list[CheckResult]:
    """Check that a loss fulfils the contract, on a small batch.

    Args:
        loss: The name of the loss, or its declaration.
        expected_failures: As in `check_backbone`, as are the results and errors.
    """
    subject = LossSubject(*_declared("zoo_losses", loss))
    return list(run_checks(subject, LOSS_CHECKS, expected_failures))


def check_transform(
    transform: str | Factory, *, expected_failures: Mapping[str, str] | None = None
) -> list[CheckResult]:
    """Check that a transform fulfils the contract, on images of noise.

    Args:
        transform: The name of the transform, or its declaration.
        expected_failures: As in `check_backbone`, as are the results and errors.
    """
    subject = TransformSubject(*_declared("zoo_transforms", transform))
    return list(run_checks(subject, TRANSFORM_CHECKS, expected_failures))


def declared_by(plugin: str) -> list[tuple[Kind, str]]:
    """Return kind and name of everything that can be checked of a plugin.

    Raises:
        PluginError: The plugin is not installed, can't be loaded, or declares nothing of these
            kinds.
    """
    found: list[tuple[Kind, str]] = []
    for each in plugins.of(plugin):
        found += [("backbone", name) for name in each.backbones]
        for kind in NAMES:
            if kind != "backbone":
                names = plugins.declared(each, plugins.NAMED[kind])
                found += [(kind, name) for name in sorted(names)]
    if not found:
        raise PluginError(f"nothing to check: plugin {plugin} declares none of {', '.join(NAMES)}")
    return found


def check_one(
    kind: Kind, name: str, data: str = "", expected_failures: Mapping[str, str] | None = None
) -> list[CheckResult]:
    """Call the function above for that kind; checks of other kinds may be expected to fail."""
    expected = {c: why for c, why in (expected_failures or {}).items() if c in check_names(kind)}
    if kind == "source":
        return check_source(name, data, expected_failures=expected)
    if kind == "exporter":
        return check_exporter(name, expected_failures=expected)
    if kind == "logger":
        return check_logger(name, expected_failures=expected)
    if kind == "loss":
        return check_loss(name, expected_failures=expected)
    if kind == "transform":
        return check_transform(name, expected_failures=expected)
    return check_backbone(name, expected_failures=expected)


def run_checks(
    subject: T, checks: Sequence[Check[T]], expected_failures: Mapping[str, str] | None = None
) -> Iterator[CheckResult]:
    """Run checks, and yield each result as soon as it is known.

    Raises:
        PluginError: `expected_failures` has the name of an unknown check.
    """
    names = [check.name for check in checks]
    expected = dict(expected_failures or {})
    for name in expected:
        if name not in names:
            raise PluginError(f"no check {name!r}; checks: {', '.join(names)}")
    statuses: dict[str, Status] = {}
    for check in checks:
        started = time.perf_counter()
        broken = next((name for name in check.after if statuses[name] == "failed"), None)
        status, message = _run(check, subject, broken)
        statuses[check.name] = status
        shown, message = _as_expected(status, message, expected.get(check.name))
        yield CheckResult(
            kind=subject.kind,
            name=subject.name,
            check=check.name,
            status=shown,
            message=message,
            seconds=time.perf_counter() - started,
        )


def _declared(hook: str, given: Any) -> tuple[str, Any]:
    """Return the name and the declaration of what is given by either."""
    if isinstance(given, str):
        return given, plugins.declared_as(hook, given)
    named = given.name if isinstance(given, Factory) else getattr(given, "__name__", None)
    return named or type(given).__name__, given


def _run(check: Check[T], subject: T, broken: str | None) -> tuple[Status, str]:
    if broken is not None:
        return "skipped", f"can't be made while {broken} fails"
    if check.needs_values and subject.shapes_only:
        return "skipped", "needs values, and only shapes are checked"
    try:
        with torch.random.fork_rng(devices=[]):
            check.function(subject)
    except CheckSkipped as skipped:
        return "skipped", str(skipped)
    except (CheckFailed, ZooError) as failure:
        return "failed", str(failure)
    except Exception as error:  # noqa: BLE001 - whatever the plugin's code raises is the finding
        return "failed", f"it raises {plugins.explain(error)}"
    return "passed", ""


def _as_expected(status: Status, message: str, reason: str | None) -> tuple[Status, str]:
    if reason is None:
        return status, message
    if status == "failed":
        return "expected failure", reason
    if status == "passed":
        return "failed", f"passes, though it is expected to fail ({reason}): no longer expect it"
    return status, message
