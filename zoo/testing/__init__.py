"""The conformance kit: does a backbone keep what the contract with plugins promises?

zoo runs it on its own plugins, and so do the authors of others:

    from zoo.testing import conformance_suite

    test_conformance = conformance_suite(plugin="acme")

`check_backbone` gives the same as data, `zoo check` on the command line.
"""

from zoo.testing.run import CheckResult, Status, check_backbone, check_names
from zoo.testing.suite import conformance_suite

__all__ = ["CheckResult", "Status", "check_backbone", "check_names", "conformance_suite"]
