"""Download of images, with limits."""

from __future__ import annotations

import ipaddress
import socket
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from zoo.errors import DataError
from zoo.io.text import printable

#: Largest image that is downloaded, in bytes.
MAX_BYTES = 64 * 2**20

#: Seconds after which a download is given up, in all.
SECONDS = 30.0

#: Maximum number of redirects.
REDIRECTS = 5

#: Bytes that are read at a time.
_CHUNK = 2**16


def is_web_url(text: str) -> bool:
    """Return whether a text is a URL that `download` reads: of http or https."""
    return text.lower().startswith(("http://", "https://"))


def download(url: str, *, max_bytes: int = MAX_BYTES, seconds: float = SECONDS) -> bytes:
    """Download a file by http or https.

    A server may be on this machine or in a private network if `url` names it, but a server on the
    internet can't redirect to one there.

    Args:
        url: Its address.
        max_bytes: Maximum size, in bytes.
        seconds: Maximum duration, redirects included.

    Raises:
        DataError: It can't be downloaded, or exceeds a limit; the message names the URL.
    """
    end = time.monotonic() + seconds
    try:
        with _opener().open(url, timeout=seconds) as response:
            return _content(response, max_bytes, end)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # It is the response too, with its socket.
        # A URLError is an OSError, and has the reason of the system inside.
        reason = getattr(error, "reason", None) or error
        raise DataError(f"can't download {printable(url)}: {printable(reason)}") from error


def _content(response: HTTPResponse, max_bytes: int, end: float) -> bytes:
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise ValueError(f"it has {int(announced):,} bytes; zoo downloads up to {max_bytes:,}")
    content = bytearray()
    # read1 returns what has arrived, so that a slow server can't hold it up for longer.
    while chunk := response.read1(_CHUNK):
        content += chunk
        if len(content) > max_bytes:
            raise ValueError(f"it has more than {max_bytes:,} bytes")
        if time.monotonic() > end:
            raise TimeoutError("it takes too long")
    return bytes(content)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows some redirects, to http and https, but not from the internet to private networks."""

    max_redirections = REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not is_web_url(newurl):
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


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener without the handlers of files, FTP and data that urllib has by default."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "zoo")]
    return opener
