"""Download of images, with limits."""

from __future__ import annotations

import time
import urllib.error
from http.client import HTTPException, HTTPResponse

from zoo.data.remote.http import opener
from zoo.errors import DataError
from zoo.io.text import printable

#: Largest image that is downloaded, in bytes.
MAX_BYTES = 64 * 2**20

#: Seconds after which a download is given up, in all.
SECONDS = 30.0

#: Bytes that are read at a time.
_CHUNK = 2**16


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
        with opener().open(url, timeout=seconds) as response:
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
