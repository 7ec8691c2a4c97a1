"""A loopback Hub that can be read and written, as huggingface_hub speaks to the real one."""

import base64
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from huggingface_hub import ModelCardData

TOKEN = "hf_loopback_token"


@dataclass
class Repository:
    """Its commits, oldest first, each the files by name."""

    private: bool = True
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    messages: list[str] = field(default_factory=list)

    def sha(self, number: int) -> str:
        return hashlib.sha1(f"{number}".encode(), usedforsecurity=False).hexdigest()

    def at(self, revision: str) -> int | None:
        """Number of the commit of a revision; None if there is none."""
        last = len(self.commits) - 1
        named = {"main": last, **{self.sha(n): n for n in range(last + 1)}}
        return named.get(revision)


@dataclass
class Hub:
    """The server; tests look into it and change how it answers."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    owners: set[str] = field(default_factory=lambda: {"acme"})
    #: Paths with one of these in them are answered with that status, or cut off for 0.
    broken: dict[str, int] = field(default_factory=dict)

    def files(self, name: str) -> dict[str, bytes]:
        return self.repositories[name].commits[-1]


def _handler(hub: Hub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer()

        do_GET = do_POST = do_PUT = do_HEAD

        def log_message(self, *args):
            pass

        def _answer(self):
            path = unquote(urlsplit(self.path).path)
            length = int(self.headers.get("Content-Length") or 0)
            self._body = self.rfile.read(length) if length else self._chunks()
            hub.asked.append(f"{self.command} {path}")
            status = next((s for part, s in hub.broken.items() if part in path), None)
            if status:
                self._say(status, {"error": "broken for a test"})
                return
            words = path.strip("/").split("/")
            if path == "/api/validate-yaml":
                self._validate()
            elif path == "/api/repos/create":
                self._create()
            elif words[:2] == ["api", "models"]:
                self._api("/".join(words[2:4]), words[4:])
            elif path.endswith(".git/info/lfs/objects/batch"):
                self._batch()
            elif words[0] == "lfs":
                hub.objects[words[1]] = self._body
                self._say(200, {})
            else:
                self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]), status)

        def _chunks(self):
            """The body of a request that is sent in chunks."""
            if self.headers.get("Transfer-Encoding") != "chunked":
                return b""
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        @property
        def _known(self):
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def _validate(self):
            """As the Hub: the metadata are those of a model card."""
            content = json.loads(self._body)["content"]
            try:
                ModelCardData(**yaml.safe_load(content.split("---\n")[1]))
                errors = []
            except (ValueError, TypeError, IndexError, yaml.YAMLError) as error:
                errors = [{"message": str(error)}]
            self._say(400 if errors else 200, {"errors": errors, "warnings": []})

        def _create(self):
            asked = json.loads(self._body)
            name = f"{asked['organization']}/{asked['name']}"
            if not self._known:
                self._say(401, {"error": "unauthorized"})
            elif asked["organization"] not in hub.owners:
                self._say(403, {"error": "no rights"})
            elif name in hub.repositories:
                self._say(409, {"error": "it exists"})
            else:
                hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
                self._say(200, {"url": f"{hub.url}/{name}"})

        def _api(self, name, words):
            found = self._readable(name)
            if found is None:
                return
            if words and words[0] in ("preupload", "commit") and not self._known:
                self._say(401, {"error": "unauthorized"})
            elif words and words[0] == "preupload":
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs"
                        if file["path"].endswith((".safetensors", ".parquet"))
                        else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(self._body)["files"]
                ]
                self._say(200, {"files": files})
            elif words and words[0] == "commit":
                self._commit(name, found)
            else:
                number = found.at(words[1] if words else "main")
                if number is None:
                    self._say(404, {}, "RevisionNotFound")
                    return
                siblings = [
                    {"rfilename": file, "size": len(content)}
                    for file, content in found.commits[number].items()
                ]
                about = {"id": name, "sha": found.sha(number), "private": found.private}
                self._say(200, {**about, "siblings": siblings})

        def _commit(self, name, found):
            files = dict(found.commits[-1])
            for line in self._body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header":
                    found.messages.append(value["summary"])
                    if value.get("parentCommit") not in (None, found.sha(len(found.commits) - 1)):
                        self._say(412, {"error": "not the parent"})
                        return
                elif item["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
                else:
                    del files[value["path"]]
            found.commits.append(files)
            sha = found.sha(len(found.commits) - 1)
            self._say(200, {"commitUrl": f"{hub.url}/{name}/commit/{sha}", "commitOid": sha})

        def _batch(self):
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}}
                for each in json.loads(self._body)["objects"]
            ]
            self._say(200, {"transfer": "basic", "objects": objects})

        def _readable(self, name):
            found = hub.repositories.get(name)
            if found is None or (found.private and not self._known):
                self._say(404 if self._known else 401, {}, "RepoNotFound")
                return None
            return found

        def _resolve(self, name, revision, file, status):
            found = self._readable(name)
            if found is None:
                return
            number = found.at(revision)
            if number is None:
                self._say(404, {}, "RevisionNotFound")
            elif file not in found.commits[number]:
                self._say(404, {}, "EntryNotFound")
            else:
                self._send(found, number, found.commits[number][file], cut=status == 0)

        def _send(self, found, number, content, *, cut):
            self.send_response(206 if self.headers.get("Range") else 200)
            self.send_header("X-Repo-Commit", found.sha(number))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                # The client asks for the rest, and gets nothing more.
                half = 0 if self.headers.get("Range") else len(content) // 2
                self.wfile.write(content[:half] if cut else content)
                self.close_connection = cut

        def _say(self, status, value, code=None):
            content = json.dumps(value).encode()
            self.send_response(status)
            if code is not None:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub for this process, in which the user may write what belongs to `acme`."""
    hub = Hub()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hf"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        # Its large files go to a service of another kind.
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield hub
    httpd.shutdown()
    httpd.server_close()
