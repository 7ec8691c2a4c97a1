"""Run the checks on a backbone and return the results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import PluginError, ZooError
from zoo.testing.checks import CHECKS, Check
from zoo.testing.subject import CheckFailed, CheckSkipped, Subject

Status = Literal["passed", "failed", "skipped", "expected failure"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of a check.

    Attributes:
        backbone: Full name of the backbone.
        check: Name of the check: `check_...`.
        status: `passed`, `failed`, `skipped`, or `expected failure`.
        message: If failed, what the author must change; else why it was skipped or expected.
        seconds: Duration of the check.
    """

    backbone: str
    check: str
    status: Status
    message: str = ""
    seconds: float = 0.0


def check_names() -> tuple[str, ...]:
    """Return the names of all checks, in the order in which they run."""
    return tuple(check.name for check in CHECKS)


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
        UnknownBackboneError: There is no such backbone.
        PluginError: `expected_failures` has the name of an unknown check.
    """
    expected = dict(expected_failures or {})
    for name in expected:
        if name not in check_names():
            raise PluginError(f"no check {name!r}; checks: {', '.join(check_names())}")
    if isinstance(backbone, str):
        backbone = plugins.get(backbone)
    subject = Subject(backbone, torch.device("meta" if shapes_only else "cpu"))
    return list(run_checks(subject, expected))


def run_checks(subject: Subject, expected: Mapping[str, str]) -> Iterator[CheckResult]:
    """Run all checks, and yield each result as soon as it is known."""
    statuses: dict[str, Status] = {}
    for check in CHECKS:
        started = time.perf_counter()
        broken = next((name for name in check.after if statuses[name] == "failed"), None)
        status, message = _run(check, subject, broken)
        statuses[check.name] = status
        shown, message = _as_expected(status, message, expected.get(check.name))
        yield CheckResult(
            backbone=subject.backbone.name,
            check=check.name,
            status=shown,
            message=message,
            seconds=time.perf_counter() - started,
        )


def _run(check: Check, subject: Subject, broken: str | None) -> tuple[Status, str]:
    if broken is not None:
        return "skipped", f"can't be made while {broken} fails"
    if check.needs_values and subject.device.type == "meta":
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
