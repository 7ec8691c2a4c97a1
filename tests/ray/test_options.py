"""What `zoo predict --on ray` refuses, without a cluster."""

import socket
import sys
from pathlib import Path

import pytest

from tests.conftest import zoo_


def left() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"zoo", "torch"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--on", "ray"], "--out"),
        (["--on", "ray", "--out", "a.csv"], "--out"),
        (["--on", "ray", "--out", "a", "--format", "json"], "--format"),
        (["--on", "ray", "--out", "a", "--device", "mps"], "--device"),
        (["--ray-address", "auto", "--out", "a.csv"], "--on"),
    ],
)
def test_options_that_do_not_go_together_are_refused(run, folder, options, named):
    assert named in zoo_("predict", run.path, folder, *options, code=2).stderr
    assert not left()


def test_launchers_are_refused(run, folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (
        "launcher" in zoo_("predict", run.path, folder, "--on", "ray", "--out", "a", code=2).stderr
    )


def test_without_ray_the_extra_is_named(run, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    result = zoo_("predict", run.path, folder, "--on", "ray", "--out", "a", code=2)
    assert "zoo-finetune[ray]" in result.stderr
    assert not left()


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:10001", "nowhere", ":"])
def test_a_cluster_that_is_not_there_is_one_message(run, folder, address):
    with socket.socket() as closed:  # Bound, so that no other process takes it; nobody listens.
        closed.bind(("127.0.0.1", 0))
        address = address.format(port=closed.getsockname()[1])
        cluster = ["--on", "ray", "--ray-address", address, "--out", "a"]
        result = zoo_("predict", run.path, folder, *cluster, code=2)
    assert address in result.stderr
    assert not left()
