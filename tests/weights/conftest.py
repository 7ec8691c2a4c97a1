"""Loopback servers: a mirror, and a hub."""

import hashlib
import http.server
import os
import threading
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import TINY
from zoo import plugins


@pytest.fixture
def server(tmp_path):
    """A loopback server of the files in tmp_path; lists what it was asked for."""
    hits = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            hits.append(self.path)

    httpd = _serve(Handler, tmp_path)
    yield f"http://127.0.0.1:{httpd.server_port}", hits
    httpd.shutdown()
    httpd.server_close()


@dataclass
class Hub:
    """A hub that holds weights of TINY; `env` makes a process use it and a cache of its own."""

    state_dict: dict
    env: dict
    httpd: http.server.ThreadingHTTPServer

    def stop(self):
        self.httpd.shutdown()
        self.httpd.server_close()


@pytest.fixture
def hub(tmp_path):
    torch.manual_seed(1)
    state_dict = plugins.build(plugins.get(TINY), None, False).state_dict()
    folder = tmp_path / "hub" / plugins.get(TINY).weights.hub / "resolve" / "main"
    folder.mkdir(parents=True)
    save_file(state_dict, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self):
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("ETag", f'"{digest}"')
            super().end_headers()

        def log_message(self, *args):
            pass

    httpd = _serve(Handler, tmp_path / "hub")
    env = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{httpd.server_port}",
        "HF_HOME": str(tmp_path / "home"),
    }
    yield Hub(state_dict, env, httpd)
    httpd.server_close()


def _serve(handler, folder):
    httpd = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(folder))
    )
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    return httpd
