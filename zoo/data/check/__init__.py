"""Dataset checks before training: `zoo data check`."""

from zoo.data.check.brief import sizes_of, warn_of
from zoo.data.check.checking import Report, check_data
from zoo.data.check.examine import Examined, examine_files
from zoo.data.check.findings import Finding
from zoo.data.check.memory import examined_store, remember

__all__ = [
    "Examined",
    "Finding",
    "Report",
    "check_data",
    "examine_files",
    "examined_store",
    "remember",
    "sizes_of",
    "warn_of",
]
