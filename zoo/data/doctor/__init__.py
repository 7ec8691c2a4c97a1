"""The data doctor: what is wrong with a data folder, before it is trained on."""

from zoo.data.doctor.ahead import Ahead, examining
from zoo.data.doctor.brief import warn_of
from zoo.data.doctor.checking import Report, check_data
from zoo.data.doctor.examine import Examined, examine_files, verdict
from zoo.data.doctor.findings import Finding
from zoo.data.doctor.memory import examined_store, remember

__all__ = [
    "Ahead",
    "Examined",
    "Finding",
    "Report",
    "check_data",
    "examine_files",
    "examined_store",
    "examining",
    "remember",
    "verdict",
    "warn_of",
]
