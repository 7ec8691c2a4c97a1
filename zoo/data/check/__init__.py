"""Dataset checks before training: `zoo data check`."""

from zoo.data.check.brief import sizes_of, warn_of
from zoo.data.check.dataset import Report, check_data
from zoo.data.check.examine import Examined, by_content, examine_samples
from zoo.data.check.findings import Finding
from zoo.data.check.memory import examined_store, remember
