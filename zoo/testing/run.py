"""Run the checks on a backbone and say what came of each."""

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
    """What came of a check.

    Attributes:
        backbone: Full name.
        check: The check's name: `check_...`.
        status: `passed`, `failed`, `skipped`, or `expected failure`.
        message: If failed, what the author must change; else why it was skipped or expected.
        seconds: How long it took.
    """

    backbone: str
    check: str
    status: Status
    message: str = ""
    seconds: float = 0.0


def check_names() -> tuple[str, ...]:
    """The names of all checks, in the order in which they run."""
    return tuple(check.name for check in CHECKS)


def check_backbone(
    backbone: str | Backbone,
    *,
    shapes_only: bool = False,
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Check that a backbone keeps what the contract with plugins promises.

    No weights are downloaded: those with pretrained weights that are not on this machine are
    checked without them, and the result says so.

    Args:
        backbone: Its name or declaration.
        shapes_only: Make only the checks that need no values, on torch's meta device: for a sweep
            over many or very large networks.
        expected_failures: Reasons by the name of the check. One that passes nevertheless fails:
            its reason is gone.

    Returns:
        A result for each check, in their order; `status == "failed"` is what must be mended.

    Raises:
        UnknownBackboneError: No such backbone.
        PluginError: `expected_failures` names no check.
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
    """The results of all checks, each as it is made."""
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
