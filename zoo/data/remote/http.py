"""Files of http and https: by range, and in one version only."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from zoo.data.remote import errors
from zoo.data.remote.errors import TransientError, changed, denied
from zoo.data.remote.web import StatusError, answer, content_of, reason_of
from zoo.errors import DataError
from zoo.io.text import printable

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

#: Slowest speed in bytes/s at which an answer is read.
_SLOWEST = 50_000

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
        end = time.monotonic() + 3 * errors.SECONDS + size / _SLOWEST
        content = content_of(response, size, end)
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
) -> Iterator[BaseHTTPResponse]:
    """Send a request, and convert what goes wrong, also while the answer is read."""
    from urllib3.exceptions import HTTPError

    url = quote(address, safe="%/:=&?~#+!$,;'@()*[]")
    try:
        with answer(url, headers, method=method, seconds=errors.SECONDS) as response:
            yield response
    except StatusError as error:
        if method == "HEAD" and error.status in _NO_HEAD:
            raise _RefusedError from error
        raise _error_of(address, error) from error
    except ValueError as error:  # Some are errors of urllib3 too.
        raise DataError(f"can't read {printable(address)}: {printable(error)}") from error
    except (OSError, HTTPError) as error:
        raise TransientError(reason_of(error)) from error


def _error_of(address: str, error: StatusError) -> Exception:
    if error.status in (404, 410):
        return FileNotFoundError(str(error))
    if error.status in (401, 403, 407):
        return denied(address, error)
    if error.status in (412, 416):
        return changed(address)
    if error.status in _TRANSIENT:
        after = error.headers.get("Retry-After", "")
        return TransientError(str(error), after=float(after) if after.isdecimal() else None)
    return DataError(f"can't read {printable(address)}: {printable(error)}")


def _version(headers: Any) -> str:
    """Return the version that an answer states; empty if it states none."""
    return str(headers.get("ETag") or headers.get("Last-Modified") or "")
