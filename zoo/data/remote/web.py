"""Requests of http and https: connections that are kept, redirects, and which addresses they reach.

A host name is resolved here, and the connection goes to the address that was checked, so that a
second answer of a DNS server can't lead elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import socket
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin
from urllib.request import getproxies, proxy_bypass

from zoo.data.remote.address import is_web
from zoo.io.text import printable

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, HTTPConnectionPool, PoolManager
    from urllib3.util import Url

#: Maximum number of redirects.
REDIRECTS = 5

#: Bytes that are read at a time, and at most to keep the connection of an answer that is not used.
_CHUNK = 2**16

#: Hosts whose connections are kept, and most connections to each.
_HOSTS, _CONNECTIONS = 32, 256

#: Seconds for which the addresses of a host are remembered.
_RESOLVED = 60


class StatusError(Exception):
    """An answer that is not the file.

    Attributes:
        status: Its status code.
        headers: Its headers.
    """

    def __init__(self, status: int, reason: str | None, headers: Mapping[str, str]) -> None:
        super().__init__(f"{status} {reason or ''}".rstrip())
        self.status, self.headers = status, headers


def reason_of(error: Exception) -> str:
    """Return the reason of an error: that of the system, if urllib3 has wrapped one."""
    return str(error.__cause__ or error) or type(error).__name__


@contextlib.contextmanager
def answer(
    url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", seconds: float
) -> Iterator[BaseHTTPResponse]:
    """Send a request, follow redirects, and yield the answer, whose content has not been read.

    Redirects lead to http and https, but not from the internet to a private network. Safe in
    threads and forked processes.

    Args:
        url: Where to.
        headers: Headers of the request.
        method: GET or HEAD.
        seconds: How long the server may take to connect or to send more.

    Raises:
        StatusError: The status is not one of success.
        ValueError: The URL can't be used, or a redirect is not followed.
        urllib3.exceptions.HTTPError, OSError: No or half an answer.
    """
    response = _followed(url, {"User-Agent": "zoo", **(headers or {})}, method, seconds)
    try:
        if not 200 <= response.status < 300:
            _drain(response, seconds)
            raise StatusError(response.status, response.reason, response.headers)
        yield response
        _drain(response, seconds)
    finally:
        _release(response)


def content_of(response: BaseHTTPResponse, limit: int, end: float) -> bytes:
    """Read an answer, up to a chunk more than a limit.

    Args:
        response: The answer.
        limit: Bytes after which no more is read.
        end: Time by `time.monotonic` at which to give up.

    Raises:
        TimeoutError: It takes longer.
        urllib3.exceptions.HTTPError: The connection ended, or the server sends nothing more.
    """
    content = bytearray()
    # read1 returns what has arrived, so that a slow server can't hold it up for longer.
    while len(content) <= limit and (chunk := response.read1(_CHUNK)):
        content += chunk
        if time.monotonic() > end:
            raise TimeoutError("it takes too long")
    return bytes(content)


def _followed(
    url: str, headers: Mapping[str, str], method: str, seconds: float
) -> BaseHTTPResponse:
    from urllib3.util import parse_url

    place, trusted = parse_url(url), True
    for _ in range(REDIRECTS + 1):
        if place.auth:
            raise ValueError(f"the address of {printable(place.host)} has a user name in it")
        proxy = _proxy_of(place)
        addresses = _addresses_of(place, proxied=proxy is not None)
        if not trusted and not all(map(_is_public, addresses)):
            raise ValueError(f"it redirects to {printable(place.url)}, in a private network")
        response = _sent(method, place, proxy, addresses, headers, seconds)
        target = response.get_redirect_location()
        if not target:
            return response
        _drain(response, seconds)
        _release(response)
        # Of an unknown host, reached by a proxy, nothing is known but that it is not trusted.
        trusted = bool(addresses) and not any(map(_is_public, addresses))
        # http.client reads headers as Latin-1.
        target = quote(target, encoding="iso-8859-1", safe=string.punctuation)
        target = urljoin(place.url, target)
        if not is_web(target.lower()):
            raise ValueError(f"it redirects to {printable(target)}")
        place = parse_url(target)
    raise ValueError(f"it redirects more than {REDIRECTS} times")


def _sent(
    method: str,
    place: Url,
    proxy: str | None,
    addresses: Sequence[str],
    headers: Mapping[str, str],
    seconds: float,
) -> BaseHTTPResponse:
    """Send a request to the first of a host's addresses that can be reached, or to a proxy."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProtocolError

    def send(sender: PoolManager | HTTPConnectionPool, target: str) -> BaseHTTPResponse:
        return sender.urlopen(
            method,
            target,
            headers={"Host": place.netloc or "", **headers},
            timeout=seconds,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )

    def reach(sender: PoolManager | HTTPConnectionPool, target: str) -> BaseHTTPResponse:
        try:
            return send(sender, target)
        except ProtocolError:
            # A server may close a connection that was kept just when it is used again.
            return send(sender, target)

    manager = _manager(os.getpid(), proxy)
    if proxy:
        return reach(manager, place.url)
    for n, address in enumerate(addresses, 1):
        pool = manager.connection_from_host(
            address, place.port, place.scheme, {"server_hostname": _host_of(place)}
        )
        try:
            return reach(pool, place.request_uri)
        except (ConnectTimeoutError, NewConnectionError):
            if n == len(addresses):
                raise
    raise AssertionError


@functools.lru_cache(maxsize=8)
def _manager(process: int, proxy: str | None) -> PoolManager:
    """Return what keeps connections, once in each process: those of a fork are its parent's."""
    from urllib3 import PoolManager, ProxyManager, make_headers
    from urllib3.util import parse_url

    if proxy is None:
        return PoolManager(_HOSTS, maxsize=_CONNECTIONS)
    auth = parse_url(proxy).auth
    headers = make_headers(proxy_basic_auth=unquote(auth)) if auth else None
    return ProxyManager(proxy, _HOSTS, maxsize=_CONNECTIONS, proxy_headers=headers)


def _proxy_of(place: Url) -> str | None:
    """Return the proxy that the environment names for a URL."""
    proxy = getproxies().get(place.scheme or "")
    if not proxy or proxy_bypass(place.netloc or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _drain(response: BaseHTTPResponse, seconds: float) -> None:
    """Read what is left of an answer if it is little, so that the connection can be kept."""
    from urllib3.exceptions import HTTPError

    left = response.length_remaining
    if left is not None and left <= _CHUNK:
        with contextlib.suppress(HTTPError, TimeoutError):
            content_of(response, _CHUNK, time.monotonic() + seconds)


def _release(response: BaseHTTPResponse) -> None:
    """Give the connection of an answer back; it is closed unless all has been read."""
    response.close()
    response.release_conn()


def _host_of(place: Url) -> str:
    return (place.host or "").strip("[]")


def _addresses_of(place: Url, *, proxied: bool) -> tuple[str, ...]:
    """Return the IP addresses of a URL's host; none if it is reached by a proxy, and unknown."""
    try:
        return _resolved(_host_of(place), int(time.monotonic()) // _RESOLVED)
    except OSError:
        if not proxied:
            raise
        return ()


@functools.lru_cache(maxsize=_HOSTS)
def _resolved(host: str, period: int) -> tuple[str, ...]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


def _is_public(address: str) -> bool:
    """Return whether an address is of the internet: not private, loopback or link-local."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_global
