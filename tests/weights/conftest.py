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
from zoo.weights import checkpoint

#: The only commit of the hubs' repositories.
COMMIT = "a" * 40


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
            self.send_header("X-Repo-Commit", COMMIT)
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


@pytest.fixture
def repositories(tmp_path, monkeypatch):
    """A hub for this process, of the repositories in the folder that it returns, OWNER/NAME/FILE.

    As the real one, it has the branch `main` and one commit, and says why it refuses: a repository
    whose name begins with `gated` is for those who were granted access.
    """
    folder = tmp_path / "repositories"
    folder.mkdir()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _answer(self, body):
            owner, name, _, revision, file = self.path.split("?")[0].strip("/").split("/", 4)
            path = folder / owner / name / file
            if name.startswith("gated"):
                self._refuse(403, "GatedRepo")
            elif not path.parent.is_dir():
                self._refuse(401, "RepoNotFound")
            elif revision not in ("main", COMMIT):
                self._refuse(404, "RevisionNotFound")
            elif not path.is_file():
                self._refuse(404, "EntryNotFound")
            else:
                content = path.read_bytes()
                self.send_response(200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

        def _refuse(self, status, code):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    checkpoint._open_hub.cache_clear()
    yield folder
    checkpoint._open_hub.cache_clear()
    httpd.shutdown()
    httpd.server_close()


def _serve(handler, folder):
    httpd = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(folder))
    )
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    return httpd
