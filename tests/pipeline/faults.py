"""The command line as people run it: on a disk of its own, or without the rights of root."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

_SEVERAL = """
import json, os, sys
from click.testing import CliRunner
from zoo.cli import main

for line in sys.stdin:
    folder, env, commands = json.loads(line)
    os.chdir(folder)
    results = [CliRunner().invoke(main, args, env=env) for args in commands]
    os.chdir("/")
    print(json.dumps([[r.exit_code, r.stdout, r.stderr] for r in results]), flush=True)
"""


def unprivileged():
    """Begins the command line of somebody for whom a folder's mode counts.

    As root it drops every capability: what is left is a user like others, the owner of root's
    files. (Another user might not be let to the Python that runs the tests.)
    """
    if os.geteuid():
        return []
    prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    try:
        tried = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("root's rights can't be dropped: there is no setpriv")
    if tried.returncode:
        pytest.skip(f"root's rights can't be dropped: {tried.stderr.strip()}")
    return prefix


def begin(prefix, *args, **options):
    """A `zoo` of its own, under way."""
    command = [*prefix, sys.executable, "-m", "zoo", *map(str, args)]
    return subprocess.Popen(command, **_PIPES, **options)


def end(process, code):
    """(stdout, stderr) of a `zoo` that ends with that code, and no traceback."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, (process.returncode, out, err)
    assert "Traceback" not in err, err
    return out, err


@contextlib.contextmanager
def answering(prefix):
    """Begin a process that answers command lines; it has to import torch once only.

    Gives a function that takes several and returns (exit code, stdout, stderr) of each.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*prefix, sys.executable, "-c", _SEVERAL], **pipes) as process:

        def answers(commands, **env):
            homes = {name: os.environ[name] for name in ("ZOO_HOME", "TORCH_HOME")}
            given = [[str(arg) for arg in command] for command in commands]
            process.stdin.write(f"{json.dumps([str(Path.cwd()), homes | env, given])}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, f"ended with {process.wait()}"
            return [tuple(answer) for answer in json.loads(line)]

        yield answers


@contextlib.contextmanager
def standing_still(process, ready):
    """Stop a process as soon as `ready()`, before it has ended; afterwards it goes on."""
    until = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def contents(folder):
    """Each file below a folder, and its bytes."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Disk:
    """A small disk in memory, mounted where the processes of one test alone see it.

    Attributes:
        path: Where they see it.
        seen: Where others can look at it.
        enter: Begins the command line of one of them.
    """

    def __init__(self, path: Path, megabytes: int) -> None:
        root = os.geteuid() == 0
        unshare = ["unshare", "--mount", *([] if root else ["--user", "--map-root-user"])]
        pipes = {**_PIPES, "stdin": subprocess.PIPE, "stderr": subprocess.STDOUT}
        try:
            self.shell = subprocess.Popen([*unshare, "sh"], **pipes)
        except FileNotFoundError:
            pytest.skip("no disk can be mounted: there is no unshare")
        pid = str(self.shell.pid)
        same_user = [] if root else ["--user", "--preserve-credentials"]
        self.enter = ["nsenter", "--target", pid, "--mount", *same_user]
        self.path, self.seen = path, Path(f"/proc/{pid}/root{path}")
        path.mkdir()
        said = self._do(f"mount -t tmpfs -o size={megabytes}m,mode=755 zoo {path}")
        if said != "done":
            self.close()
            pytest.skip(f"no disk can be mounted: {said}")

    def fill(self, leaving: int = 0) -> None:
        """Take all room but so many bytes."""
        filler = self.seen / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(filler, filler.stat().st_size - leaving)

    def free(self) -> None:
        """Give it back."""
        (self.seen / "filler").unlink()

    def read_only(self) -> None:
        """Let nobody write any more."""
        again = f"mount --bind {self.path} {self.path} && mount -o remount,bind,ro {self.path}"
        assert self._do(again) == "done"

    def writable(self) -> None:
        """Let them again."""
        assert self._do(f"umount {self.path}") == "done"

    def close(self) -> None:
        """Nobody sees it any more, and it is gone."""
        self.shell.communicate()

    def _do(self, command: str) -> str:
        """`done`, or what the command says."""
        with contextlib.suppress(BrokenPipeError):
            self.shell.stdin.write(f"{command} && echo done\n")
            self.shell.stdin.flush()
        return self.shell.stdout.readline().strip()
