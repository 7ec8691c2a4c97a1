"""Files of http and https, read with the standard library: by range, and in one version only."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

from zoo.data.remote import errors
from zoo.data.remote.address import is_web
from zoo.data.remote.errors import TransientError, changed, denied
from zoo.errors import DataError
from zoo.io.text import printable

#: Maximum number of redirects.
REDIRECTS = 5

#: Slowest speed in bytes/s at which an answer is read.
_SLOWEST = 50_000

#: Bytes that are read at a time.
_CHUNK = 2**16

#: Statuses after which another attempt may succeed.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

#: Statuses of servers that do not answer HEAD, such as for an address that is signed for GET.
_NO_HEAD = frozenset({400, 403, 405, 501})


def stat(address: str) -> tuple[int, str]:
    """Ask for (size in bytes, version) of a file: its ETag, else its modification time.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The server does not say the size, or denies access.
        TransientError: Another attempt may succeed.
    """
    try:
        with _answer(address, {}, method="HEAD") as response:
            size, headers = response.headers.get("Content-Length"), response.headers
            if size is not None and size.isdecimal():
                return int(size), _version(headers)
    except _RefusedError:
        pass
    with _answer(address, {"Range": "bytes=0-0"}) as response:
        whole = re.fullmatch(r"bytes .*/([0-9]+)", response.headers.get("Content-Range", ""))
        size = whole[1] if whole else response.headers.get("Content-Length")
        if size is None or not size.isdecimal():
            raise DataError(f"can't read {printable(address)}: the server does not say its size")
        return int(size), _version(response.headers)


def read(address: str, *, version: str, total: int, offset: int, size: int) -> bytes:
    """Read a range of a file, which must still be the one of that version and total size.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The file has changed, access is denied, or the server does not read ranges.
        TransientError: Another attempt may succeed.
    """
    headers = {}
    if (offset, size) != (0, total):
        headers["Range"] = f"bytes={offset}-{offset + size - 1}"
    if version.startswith('"'):  # Weak ones can't be used.
        headers["If-Match"] = version
    with _answer(address, headers) as response:
        if version and _version(response.headers) not in ("", version):
            raise changed(address)
        announced = response.headers.get("Content-Length", "")
        if response.status == 206:
            place = re.fullmatch(
                r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)", response.headers.get("Content-Range", "")
            )
            if place is None or int(place[1]) != offset:
                raise TransientError("the server sent another range than that asked for")
            if place[3] not in ("*", str(total)):
                raise changed(address)
        elif "Range" in headers:
            raise DataError(
                f"can't read {printable(address)}: the server does not read parts of files",
                hint="download it first",
            )
        elif announced.isdecimal() and int(announced) != total:
            raise changed(address)
        content = _content(response, size)
    if len(content) < size:
        raise TransientError(f"the connection ended after {len(content):,} of {size:,} bytes")
    if len(content) > size:
        raise changed(address)
    return content


class _RefusedError(Exception):
    """A server that does not answer HEAD."""


@contextlib.contextmanager
def _answer(
    address: str, headers: Mapping[str, str], *, method: str = "GET"
) -> Iterator[HTTPResponse]:
    """Send a request, and convert what goes wrong, also while the answer is read."""
    url = quote(address, safe="%/:=&?~#+!$,;'@()*[]")
    try:
        request = urllib.request.Request(url, headers=dict(headers), method=method)
        with opener().open(request, timeout=errors.SECONDS) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()  # It is the response too, with its socket.
        if method == "HEAD" and error.code in _NO_HEAD:
            raise _RefusedError from error
        raise _error_of(address, error) from error
    except (OSError, HTTPException) as error:
        # A URLError is an OSError, and has the reason of the system inside.
        reason = getattr(error, "reason", None) or error
        raise TransientError(str(reason) or type(error).__name__) from error
    except ValueError as error:
        raise DataError(f"can't read {printable(address)}: {printable(error)}") from error


def _error_of(address: str, error: urllib.error.HTTPError) -> Exception:
    reason = f"{error.code} {error.reason}"
    if error.code in (404, 410):
        return FileNotFoundError(reason)
    if error.code in (401, 403, 407):
        return denied(address, reason)
    if error.code in (412, 416):
        return changed(address)
    if error.code in _TRANSIENT:
        after = error.headers.get("Retry-After", "") if error.headers else ""
        return TransientError(reason, after=float(after) if after.isdecimal() else None)
    return DataError(f"can't read {printable(address)}: {printable(reason)}")


def _version(headers: Any) -> str:
    """Return the version that an answer states; empty if it states none."""
    return str(headers.get("ETag") or headers.get("Last-Modified") or "")


def _content(response: HTTPResponse, size: int) -> bytes:
    end = time.monotonic() + 3 * errors.SECONDS + size / _SLOWEST
    content = bytearray()
    # read1 returns what has arrived, so that a slow server can't hold it up for longer.
    while len(content) <= size and (chunk := response.read1(_CHUNK)):
        content += chunk
        if time.monotonic() > end:
            raise TransientError("it takes too long")
    return bytes(content)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows some redirects, to http and https, but not from the internet to private networks."""

    max_redirections = REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not is_web(newurl.lower()):
            fp.close()
            raise ValueError(f"it redirects to {printable(newurl)}")
        # Of an unknown host, reached by a proxy, nothing is known but that it is not trusted.
        before, after = _addresses(req.full_url), _addresses(newurl)
        trusted = bool(before) and not any(map(_is_public, before))
        if not trusted and not all(map(_is_public, after)):
            fp.close()
            raise ValueError(f"it redirects to {printable(newurl)}, in a private network")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _addresses(url: str) -> list[str]:
    """Return the IP addresses of a URL's host; none if its name is unknown here (proxies)."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(each[4][0]) for each in found]


def _is_public(address: str) -> bool:
    """Return whether an address is of the internet: not private, loopback or link-local."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_global


def opener() -> urllib.request.OpenerDirector:
    """Return an opener without the handlers of files, FTP and data that urllib has by default."""
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        director.add_handler(handler)
    director.addheaders = [("User-Agent", "zoo")]
    return director
