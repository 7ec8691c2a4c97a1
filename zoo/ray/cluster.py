"""Connection to a Ray cluster, and how many actors fit into it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zoo.errors import OptionError, RunError
from zoo.io.text import clip, count, printable

#: Seconds to wait for the machine of an address to accept a connection.
_SECONDS = 10.0

#: The address of Ray for a new cluster on this machine.
LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The actors of a prediction.

    Attributes:
        actors: Their number, at most.
        resources: What each of them reserves, as arguments of `map_batches`.
        workers: Threads of each of them that decode.
        device: The device of each of them.
    """

    actors: int
    resources: dict[str, float]
    workers: int
    device: str


def need_ray() -> None:
    """Raise an `OptionError` if Ray Data is not installed."""
    # Ray reads it when a cluster is started; it would send usage data to its authors.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise OptionError(
            f"predictions on a cluster need a library that is not installed: {error}",
            hint="pip install 'zoo-finetune[ray]'",
        ) from error


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Context in which this process is connected to a cluster.

    Args:
        address: HOST:PORT of a cluster; `auto`: one that was started on this machine; `local`: a
            new one, of all processors and GPUs of this machine, which ends with the context.

    Raises:
        OptionError: Ray is not installed, or the address is of another kind.
        RunError: There is no cluster at the address, or it can't be started.
    """
    need_ray()
    import ray

    _check(address)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == LOCAL:
        options["include_dashboard"] = False
    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises errors of any kind, also plain ones.
        raise RunError(
            f"can't start Ray on this machine: {first_line(error)}"
            if address == LOCAL
            else f"can't connect to the Ray cluster at {printable(address)}: {first_line(error)}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def pool(device: str, workers: int | None) -> Pool:
    """Return the actors that fit into the cluster: one for each GPU, or as many as CPUs allow.

    Args:
        device: `auto`: GPUs if the cluster has any; `cpu` or `cuda`.
        workers: Threads of each actor that decode, and, without a GPU, CPUs that it reserves.
            Default: 1; with GPUs, the CPUs of a machine divided by its GPUs.

    Raises:
        RunError: There is no such device, or no machine has so many CPUs.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if device == "cuda" and not any(gpus):
        raise RunError("the machines of the cluster have no GPU", hint="set `device=cpu`")
    if device != "cpu" and any(gpus):
        shares = [has // each for has, each in zip(cpus, gpus, strict=True) if each]
        threads = workers or max(1, *shares)
        return Pool(actors=sum(gpus), resources={"num_gpus": 1}, workers=threads, device="cuda")
    threads = workers or 1
    actors = sum(has // threads for has in cpus)
    if not actors:
        raise RunError(
            f"no machine of the cluster has {count(threads, 'CPU')}: the largest has "
            f"{max(cpus, default=0)}"
        )
    return Pool(actors=actors, resources={"num_cpus": threads}, workers=threads, device="cpu")


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return clip(printable(str(error).strip().partition("\n")[0] or type(error).__name__))


def _check(address: str) -> None:
    """Check that something listens at an address, which Ray itself would wait for a long time.

    Raises:
        OptionError: It is an address of another kind.
        RunError: Nothing does.
    """
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise OptionError(
            f"the address of a Ray cluster is HOST:PORT or auto, not {printable(address)}",
            hint="run zoo on a machine of the cluster",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"no Ray cluster answers at {printable(address)}: {reason}") from error
