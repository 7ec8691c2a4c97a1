"""Look at the images of a data folder while this process is still importing its libraries."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from zoo.data.check.examine import Examined, examine_files
from zoo.data.check.memory import examined_store
from zoo.data.sources.layout import images_in
from zoo.errors import DataError

#: Waits for what is known of a folder's images by then; nothing, if looking at them failed.
Ahead = Callable[[], Mapping[Path, Examined]]

_PROGRAM = "from zoo.data.check.ahead import examine; examine()"


@contextmanager
def examining(folder: Path, *, remembered: bool) -> Iterator[Ahead]:
    """Examine the images below a folder in a process of its own, until the context is left.

    Threads would not do: what imports holds Python's lock nearly all the time.

    Args:
        folder: Of the data.
        remembered: Take from the cache what it knows.
    """
    # -P: what lies in the working folder is not to be imported.
    which = "remembered" if remembered else "new"
    command = [sys.executable, "-P", "-c", _PROGRAM, str(folder), which]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:  # Python's program is not known, or there is no memory for another.
        yield dict
        return

    def ahead() -> Mapping[Path, Examined]:
        answer, _ = process.communicate()
        # One that failed leaves the work, and what is wrong, to this process.
        found = json.loads(answer) if process.returncode == 0 and answer else []
        return {
            Path(path): Examined(key=bytes.fromhex(key), **fields) for path, key, fields in found
        }

    with process:
        try:
            yield ahead
        finally:
            process.kill()


def examine() -> None:
    """What that process does; its arguments are on the command line, its answer is JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The other process ends this one.
    if hasattr(os, "nice"):
        os.nice(5)  # It is that one which is waited for.
    folder, remembered = Path(sys.argv[1]), sys.argv[2] == "remembered"
    with contextlib.suppress(DataError), examined_store() as known:
        # Where links lead, and whether that counts, is seen to later.
        files = [file for file in images_in(folder) if not file.is_symlink()]
        found = examine_files(files, known if remembered else None)
        fields = {file: dict(vars(each)) for file, each in found.items()}
        json.dump([(str(f), each.pop("key").hex(), each) for f, each in fields.items()], sys.stdout)
