"""Ray Data and `zoo predict --on ray` on a cluster of two nodes on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

import zoo
from tests.conftest import zoo_
from tests.ray.conftest import assert_same, images_in

pytestmark = [
    pytest.mark.slow,
    # Ray's own, in this process.
    pytest.mark.filterwarnings("ignore"),
]

ROOT = Path(__file__).parents[2]

#: Seconds to wait for what takes some on a machine with nothing else to do.
PATIENCE = 300


@pytest.fixture(autouse=True)
def _closed_network():
    """Open: processes of Ray have an address of this machine that is not its loopback device's."""


@pytest.fixture(scope="module", autouse=True)
def _environment():
    """Processes of Ray find zoo, send no reports, and need no token."""
    paths = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def address(_environment):
    """Of a cluster of two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    # The paths of sockets may not be as long as those of other temporary folders.
    folder = tempfile.mkdtemp(prefix="zoo-ray-")
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    with pytest.MonkeyPatch.context() as patch:
        # The cluster's address is written there, into a folder that only `ray start` creates.
        patch.setenv("RAY_TMPDIR", folder)
        Path(folder, "ray").mkdir()
        cluster = Cluster(
            initialize_head=True,
            head_node_args={**node, "include_dashboard": False, "temp_dir": folder},
        )
        cluster.add_node(**node)
        yield cluster.address
        cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def table_in(folder: str) -> pyarrow.Table:
    """The rows of all files, in the order of their names."""
    files = sorted(Path(folder).iterdir())
    assert [file.name for file in files] == [f"part-{n:06}.parquet" for n in range(len(files))]
    return pyarrow.concat_tables(map(parquet.read_table, files))


def same_rows(folder: str, file: str) -> None:
    """A folder has the rows of a file, in their order, each once."""
    found, expected = table_in(folder), parquet.read_table(file)
    assert found.column("path").to_pylist() == expected.column("path").to_pylist()
    for n in range(len(found)):
        assert_same(found.slice(n, 1), expected.slice(n, 1))


@pytest.fixture
def inputs(folder):
    """A list of 140 images, some of which can't be read, a Parquet table of images, and a text."""
    paths = [*images_in(folder), folder / "gone.png"]
    lines = [str(paths[n % len(paths)]) for n in range(140)]
    Path("names.txt").write_text("\n".join(lines))
    encoded = [path.read_bytes() for path in images_in(folder)]
    parquet.write_table(pyarrow.table({"image": encoded}), "photos.parquet")
    Path("more").mkdir()
    Path("more/notes.txt").write_text("x")
    return ["@names.txt", "photos.parquet", "more"]


def left() -> set[str]:
    """What is in the current folder, besides inputs and zoo's own folders."""
    names = {path.name for path in Path().iterdir()}
    return names - {"zoo", "torch", "names.txt", "photos.parquet", "more"}


def test_two_nodes_write_the_rows_of_one_process(run, inputs, address):
    zoo_("predict", run.path, *inputs, "--out", "one.parquet")
    cluster = ["--on", "ray", "--ray-address", address, "--out", "two"]
    result = zoo_("predict", run.path, *inputs, *cluster)
    same_rows("two", "one.parquet")
    assert len(list(Path("two").iterdir())) == 3
    assert left() == {"one.parquet", "two"}
    again = zoo_("predict", run.path, *inputs, *cluster, code=2)
    assert "two" in again.stderr
    assert len(result.stderr.splitlines()) <= 4


def test_what_an_actor_can_not_do_is_one_message(run, inputs, address, tmp_path):
    """It raises an error of zoo, and the folder can be written by the next command."""
    cluster = ["--on", "ray", "--ray-address", address, "--out", "out"]
    nothing = zoo_("predict", run.path, *inputs, *cluster, "--engine", "nothing", code=2)
    assert "nothing" in nothing.stderr
    assert "Traceback" not in nothing.stderr
    large = zoo_("predict", run.path, *inputs, *cluster, "--workers", 50, code=2)
    assert "50" in large.stderr
    assert not left()


def on_cluster(run, names, address, *more) -> list[str]:
    command = [sys.executable, "-m", "zoo", "predict", str(run.path), f"@{names}"]
    return [*command, "--allow-network", "--on", "ray", "--ray-address", address, *more]


@pytest.fixture
def server(split_photos):
    """Images by number; the first request for number 100 waits for `go_on`."""
    content = next((split_photos / "val").rglob("*.png")).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/100.png" and not http.asked.is_set():
                http.asked.set()
                http.go_on.wait(PATIENCE)
            try:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # Who has asked was killed.
                self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.asked, http.go_on = threading.Event(), threading.Event()
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        place = f"http://127.0.0.1:{http.server_address[1]}"
        lines = [f"{place}/{n}.png" for n in range(150)]
        Path("names.txt").write_text("\n".join(lines))
        yield http
        http.go_on.set()
        http.shutdown()
        thread.join()


def actors() -> list[int]:
    """Processes of the actors that write files, by the title that Ray gives them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and b"PartWriter" in title:
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
def test_no_row_is_lost_or_doubled_if_actors_are_killed(run, server, address):
    with subprocess.Popen(
        on_cluster(run, "names.txt", address, "--out", "out"),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert server.asked.wait(PATIENCE)
        killed = actors()
        for each in killed:
            os.kill(each, signal.SIGKILL)
        server.go_on.set()
        _, stderr = process.communicate(timeout=PATIENCE)
    assert killed
    assert process.returncode == 0, stderr
    zoo_("predict", run.path, "@names.txt", "--allow-network", "--out", "one.parquet")
    same_rows("out", "one.parquet")
    # Neither Ray's logs nor tracebacks.
    assert len(stderr.splitlines()) <= 4, stderr


def test_resume_computes_the_files_that_are_missing(run, server, address):
    command = on_cluster(run, "names.txt", address, "--out", "out")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        assert server.asked.wait(PATIENCE)
        finished, end = Path(".out.partial"), time.monotonic() + PATIENCE
        while not list(finished.glob("part-*")) and time.monotonic() < end:
            time.sleep(0.1)
        process.kill()
    server.go_on.set()
    before = {file.name: file.stat().st_mtime_ns for file in finished.glob("part-*")}
    assert 0 < len(before) < 3
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    subprocess.run([*command, "--resume"], check=True)
    zoo_("predict", run.path, "@names.txt", "--allow-network", "--out", "one.parquet")
    same_rows("out", "one.parquet")
    for name, changed in before.items():
        assert (Path("out") / name).stat().st_mtime_ns == changed


def test_ray_data_goes_on_if_the_actor_of_a_predictor_is_killed(run, folder, expected, address):
    import ray

    class Mortal(zoo.ray.Predictor):
        """Is killed in its third batch, once."""

        marker, batches = Path("killed").resolve(), 0

        def __call__(self, batch):
            self.batches += 1
            if self.batches == 3 and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    # Tasks that write begin in the folder of the cluster.
    ray.init(address=address, log_to_driver=False)
    try:
        images = ray.data.read_binary_files(str(folder), include_paths=True)
        images.map_batches(
            Mortal,
            fn_constructor_args=[str(run.path)],
            compute=ray.data.ActorPoolStrategy(size=1),
            batch_size=3,
        ).write_parquet(str(Path("written").resolve()))
    finally:
        ray.shutdown()
    assert Path("killed").exists()
    files = list(Path("written").glob("*.parquet"))
    assert_same(pyarrow.concat_tables(map(parquet.read_table, files)), expected)


def test_a_cluster_of_this_machine_ends_with_the_command(run, inputs, tmp_path):
    folder = tempfile.mkdtemp(prefix="zoo-ray-")
    command = [sys.executable, "-m", "zoo", "predict", str(run.path), *inputs]
    try:
        done = subprocess.run(
            [*command, "--on", "ray", "--out", "out"],
            env={**os.environ, "RAY_TMPDIR": folder, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stderr.splitlines()) <= 4, done.stderr
        assert all(len(line) <= 80 for line in done.stdout.splitlines())
        assert len(table_in("out")) == 140 + 13 + 1
        running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
        assert folder not in running.stdout
    finally:
        shutil.rmtree(folder, ignore_errors=True)
