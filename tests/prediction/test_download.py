"""URLs, from a server on this machine."""

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import zoo_
from zoo.errors import DataError
from zoo.prediction.download import download


@pytest.fixture
def server(split_photos):
    content = next((split_photos / "val").rglob("*.png")).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            place = {"/loop": "/loop", "/once": "/photo", "/file": "file:///etc/passwd"}
            target = self.path.partition("?to=")[2] or place.get(self.path)
            if target:
                self.send_response(302)
                self.send_header("Location", target)
                self.end_headers()
                return
            self.send_response(404 if self.path == "/missing" else 200)
            if self.path == "/announced":
                self.send_header("Content-Length", str(10**12))
            self.end_headers()
            if self.path == "/slow":
                for _ in range(100):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            elif self.path == "/endless":
                for _ in range(1000):
                    self.wfile.write(bytes(10_000))
            else:
                self.wfile.write(b"nothing" if self.path == "/text" else content)

        def handle(self):
            try:
                super().handle()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def finish(self):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                super().finish()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def test_urls_are_predicted_only_if_allowed(run, server):
    arguments = ["predict", str(run.path), f"{server}/photo", f"{server}/once", f"{server}/text"]
    result = zoo_(*arguments, code=2)
    assert "--allow-network" in result.stderr
    result = zoo_(*arguments, "--allow-network", "--format", "jsonl")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["path"] for row in rows] == arguments[2:]
    assert rows[0]["label"] == rows[1]["label"] is not None
    assert rows[2]["label"] is None


@pytest.mark.parametrize("place", ["loop", "file", "missing", "announced"])
def test_what_is_not_downloaded_is_an_error_that_names_it(server, place):
    with pytest.raises(DataError) as error:
        download(f"{server}/{place}")
    assert server in str(error.value)


#: Hosts, and their addresses.
HOSTS = {
    "public.test": "8.8.8.8",
    "other.test": "2001:4860:4860::8888",
    "intranet.test": "10.0.0.5",
    "metadata.test": "169.254.169.254",
    "mapped.test": "::ffff:127.0.0.1",
}


@pytest.fixture
def hosts(server, monkeypatch):
    """All hosts are reached by a proxy, which is the server."""
    resolve = socket.getaddrinfo

    def known(host, *args, **kwargs):
        if host not in HOSTS:
            return resolve(host, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (HOSTS[host], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    monkeypatch.setenv("http_proxy", server)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(
    "target", ["intranet.test", "metadata.test", "mapped.test", "localhost", "127.0.0.1", "[::1]"]
)
@pytest.mark.parametrize("first", ["public.test", "unknown.test"])
def test_the_internet_can_not_redirect_into_a_network(first, target):
    assert download(f"http://{first}/photo")
    with pytest.raises(DataError) as error:
        download(f"http://{first}/?to=http://{target}/photo")
    assert target in str(error.value)


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(
    ("first", "target"),
    [
        ("public.test", "other.test"),
        ("intranet.test", "public.test"),
        ("intranet.test", "intranet.test"),
        ("127.0.0.1", "intranet.test"),
    ],
)
def test_other_redirects_are_followed(first, target):
    assert download(f"http://{first}/?to=http://{target}/photo") == download("http://public.test/")


@pytest.fixture
def answers(server, monkeypatch):
    """A name service whose second answer is this machine, and the internet, which is the server."""
    port, asked, reached = int(server.rpartition(":")[2]), [], []
    connect = socket.socket.connect

    def resolved(host, port=0, *_, **__):
        address = host
        if host.endswith(".test"):
            address = (
                "127.0.0.1" if host in asked else {"first.test": "8.8.8.8"}.get(host, "8.8.4.4")
            )
            asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def reach(self, address):
        reached.append(address[0])
        connect(self, ("127.0.0.1", port))

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(socket.socket, "connect", reach)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return reached


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(server, answers):
    port = server.rpartition(":")[2]
    assert download(f"http://first.test:{port}/?to=http://second.test:{port}/photo")
    assert answers == ["8.8.8.8", "8.8.4.4"]
    # What is in a private network now does not become trusted because of that.
    with pytest.raises(DataError):
        download(f"http://third.test:{port}/?to=http://127.0.0.1:{port}/photo")
    assert answers == ["8.8.8.8", "8.8.4.4", "8.8.4.4"]


def test_size_and_time_are_limited(server):
    with pytest.raises(DataError):
        download(f"{server}/endless", max_bytes=100_000)
    started = time.monotonic()
    with pytest.raises(DataError):
        download(f"{server}/slow", seconds=0.3)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("url", ["http://nowhere.invalid/a.png", "http://[", "http://127.0.0.1:1/"])
def test_a_server_that_is_not_there_is_an_error(url):
    with pytest.raises(DataError):
        download(url, seconds=1)
