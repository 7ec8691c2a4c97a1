"""Download of images, with limits."""

from __future__ import annotations

import time

from zoo.data.remote.web import StatusError, answer, content_of, reason_of
from zoo.errors import DataError
from zoo.io.text import printable

#: Largest image that is downloaded, in bytes.
MAX_BYTES = 64 * 2**20

#: Seconds after which a download is given up, in all.
SECONDS = 30.0


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
    from urllib3.exceptions import HTTPError

    end = time.monotonic() + seconds
    try:
        with answer(url, seconds=seconds) as response:
            announced = response.headers.get("Content-Length", "")
            if announced.isdecimal() and int(announced) > max_bytes:
                raise ValueError(
                    f"it has {int(announced):,} bytes; zoo downloads up to {max_bytes:,}"
                )
            content = content_of(response, max_bytes, end)
            if len(content) > max_bytes:
                raise ValueError(f"it has more than {max_bytes:,} bytes")
            return content
    except (StatusError, HTTPError, OSError, ValueError) as error:
        raise DataError(
            f"can't download {printable(url)}: {printable(reason_of(error))}"
        ) from error
