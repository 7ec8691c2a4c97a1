"""Servers on this machine: one of HTTP with faults, and one of S3."""

import contextlib
import hashlib
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: What `client` of S3 and zoo authenticate with.
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "none",
    "AWS_SHARED_CREDENTIALS_FILE": "none",
}

BUCKET = "bucket"


class WebServer:
    """Files by path, and what goes wrong.

    Attributes:
        files: Contents by path.
        faults: What happens at the next requests of a path, the first one first: a status such as
            503; `cut`, half of the content; `close`, all of it, and the connection is closed
            although nothing says so; `slow`, an answer after `pause` seconds; `ranges`, all of the
            content although a range is asked for; `head`, no answer to HEAD.
        requests: (method, path, range or None) of all requests.
        connections: Number of connections that were accepted.
    """

    def __init__(self, address):
        self.address, self.files, self.faults, self.requests = address, {}, {}, []
        self.pause = 2.0
        self.versions, self.connections = True, 0

    def add(self, folder):
        """Serve the files of a folder; return their paths."""
        found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        for path in found:
            self.files[f"/{path.relative_to(folder).as_posix()}"] = path.read_bytes()

    def count(self, method):
        return sum(request[0] == method for request in self.requests)


def _handler(web):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and content are sent one after another, without waiting for each other.
        disable_nagle_algorithm = True

        def setup(self):
            super().setup()
            web.connections += 1

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path, wanted = unquote(urlsplit(self.path).path), self.headers.get("Range")
            web.requests.append((self.command, path, wanted))
            fault = web.faults[path].pop(0) if web.faults.get(path) else None
            if fault == "slow":
                time.sleep(web.pause)
            content = web.files.get(path)
            if content is None or isinstance(fault, int):
                self.answer(404 if content is None else fault, {"Content-Length": "0"})
                return
            if fault == "head" and self.command == "HEAD":
                self.answer(405, {"Content-Length": "0"})
                return
            tag = f'"{hashlib.md5(content).hexdigest()}"'
            if self.headers.get("If-Match", tag) != tag:
                self.answer(412, {"Content-Length": "0"})
                return
            status, headers = 200, {"ETag": tag} if web.versions else {}
            if wanted and fault != "ranges":
                first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                status, content = 206, content[first : last + 1]
            self.answer(status, {**headers, "Content-Length": str(len(content))})
            if self.command == "GET":
                self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
            self.close_connection |= fault in ("cut", "close")

        def answer(self, status, headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def handle(self):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                super().handle()

        def finish(self):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                super().finish()

        def log_message(self, *_):
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    # Of many connections at once, none has to be sent again.
    request_queue_size = 64
    daemon_threads = True


@contextlib.contextmanager
def web_server():
    web = WebServer("")
    with _Server(("127.0.0.1", 0), _handler(web)) as http:
        web.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield web
        http.shutdown()
        thread.join()


class Storage:
    """A bucket of S3.

    Attributes:
        requests: (operation, key) of all requests: HEAD, GET or LIST.
        faults: Statuses of the next requests of a key, the first one first.
    """

    def __init__(self, application):
        self.application, self.requests, self.faults = application, [], {}
        self.address = ""

    def __call__(self, environ, start_response):
        """Record a request, and pass it to moto."""
        key = environ["PATH_INFO"].removeprefix(f"/{BUCKET}").lstrip("/")
        listing = environ["REQUEST_METHOD"] == "GET" and not key
        self.requests.append(("LIST" if listing else environ["REQUEST_METHOD"], key))
        if self.faults.get(key):
            start_response(f"{self.faults[key].pop(0)} Fault", [("Content-Length", "0")])
            return [b""]
        return self.application(environ, start_response)

    def counts(self):
        return Counter(operation for operation, _ in self.requests)

    def client(self):
        import boto3

        return boto3.client("s3", endpoint_url=self.address)

    def add(self, folder, prefix):
        """Put the files of a folder below a prefix."""
        client = self.client()
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        self.requests.clear()


@contextlib.contextmanager
def s3_server(monkeypatch):
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    from zoo.data.remote import storage

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    moto = Storage(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, moto, threaded=True)
    moto.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.address)
    storage._system.cache_clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        client = moto.client()
        for found in client.list_buckets()["Buckets"]:
            for each in client.list_objects_v2(Bucket=found["Name"]).get("Contents", []):
                client.delete_object(Bucket=found["Name"], Key=each["Key"])
        client.create_bucket(Bucket=BUCKET)
        moto.requests.clear()
        yield moto
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        storage._system.cache_clear()
