"""The conformance kit: checks that a backbone fulfils the contract between zoo and its plugins.

zoo runs it on its own plugins; authors of other plugins run the same checks:

    from zoo.testing import conformance_suite

    test_conformance = conformance_suite(plugin="acme")

`check_backbone` returns the results as data; `zoo check` prints them on the command line.
"""

from zoo.testing.run import CheckResult, Status, check_backbone, check_names
from zoo.testing.suite import conformance_suite

__all__ = ["CheckResult", "Status", "check_backbone", "check_names", "conformance_suite"]
