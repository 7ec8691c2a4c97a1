"""Run a service with uvicorn, until a signal ends it."""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from zoo.errors import OptionError

#: Connections that are open at once, at most.
_CONNECTIONS = 512


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 is any that is free.

    Raises:
        OptionError: The port is in use, or there is no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(
            f"can't listen on {host}, port {port}: {reason}", hint="choose another `port` or `host`"
        ) from error
    return bound


def serve(app: FastAPI, bound: socket.socket, *, timeout: float, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then answer the requests that were accepted, and return."""
    config = uvicorn.Config(
        app,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=math.ceil(timeout) + 1,
    )
    with _ending():
        try:
            _Server(config, ready).run([bound])
        except OSError as error:
            # Another process may have begun to listen since the socket was bound.
            raise OptionError(
                f"can't listen on port {bound.getsockname()[1]}: {error.strerror}",
                hint="choose another `port`",
            ) from error


class _Server(uvicorn.Server):
    """A server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


class _Ended(BaseException):
    """The signal that ended the server, which uvicorn raises again at the end."""


@contextmanager
def _ending() -> Iterator[None]:
    """Context that SIGTERM and SIGINT end without an error."""

    def end(*_: object) -> NoReturn:
        raise _Ended

    before = {each: signal.signal(each, end) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except _Ended:
        pass
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
