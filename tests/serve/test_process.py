"""`zoo serve` as a process: how it starts, and how it stops under load."""

import http.client
import re
import signal
import socket
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest

from tests.conftest import zoo_
from tests.serve.process import served


def test_a_port_in_use_is_an_error(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = zoo_("serve", run.path, f"--port={port}", code=2)
    assert str(port) in result.stderr
    assert "--port" in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_host_is_an_error(run):
    assert "host.invalid" in zoo_("serve", run.path, "--host=host.invalid", code=2).stderr


def test_a_missing_library_is_an_error_that_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = zoo_("serve", run.path, "--port=0", code=2)
    assert "pip install 'zoo-finetune[serve]'" in result.stderr


def test_what_is_no_run_and_limits_that_exclude_each_other_are_errors(run, tmp_path):
    zoo_("serve", tmp_path, "--port=0", code=2)
    result = zoo_("serve", run.path, "--port=0", "--queue=2", "--max-images=3", code=2)
    assert "--queue" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_accepted_request(run, photos, signum):
    photo = next(photos.rglob("*.png")).read_bytes()
    statuses: list[int] = []
    with served(run.path) as (process, url):
        address = urlsplit(url)

        def load():
            while True:
                connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
                try:
                    connection.request("POST", "/predict", photo)
                    response = connection.getresponse()
                    response.read()
                except OSError:
                    return  # not accepted any more
                finally:
                    connection.close()
                statuses.append(response.status)

        clients = [threading.Thread(target=load) for _ in range(8)]
        for client in clients:
            client.start()
        end = time.monotonic() + 120
        while len(statuses) < 40 and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signum)
        for client in clients:
            client.join(120)
        assert process.wait(120) == 0
        said = process.stderr.read()
    assert set(statuses) == {200}
    assert len(statuses) >= 40
    (classified,) = re.findall(r"images classified: (\d+)", said)
    assert int(classified) == len(statuses)
