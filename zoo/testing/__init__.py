"""The conformance kit: checks that what a plugin declares fulfils the contract with zoo.

zoo runs it on its own plugins; authors of other plugins run the same checks:

    from zoo.testing import conformance_suite

    test_conformance = conformance_suite(plugin="acme")

`check_backbone`, `check_source`, `check_exporter`, `check_logger`, `check_loss` and
`check_transform` return the results as data; `zoo check` prints them on the command line.
"""

from zoo.testing.images import write_images
from zoo.testing.run import (
    CheckResult,
    Status,
    check_backbone,
    check_exporter,
    check_logger,
    check_loss,
    check_names,
    check_source,
    check_transform,
)
from zoo.testing.subject import Kind
from zoo.testing.suite import conformance_suite

__all__ = [
    "CheckResult",
    "Kind",
    "Status",
    "check_backbone",
    "check_exporter",
    "check_logger",
    "check_loss",
    "check_names",
    "check_source",
    "check_transform",
    "conformance_suite",
    "write_images",
]
