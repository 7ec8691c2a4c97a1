"""Addresses of files on a network, such as `s3://bucket/photos` and `https://host/photos.zip`."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from zoo.cache.remote import limit_bytes
from zoo.errors import DataError
from zoo.io.files import exists, expand
from zoo.io.text import printable

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?!/)(.+)", re.DOTALL)


class Address(PurePosixPath):
    """An address as a path, to go from a folder to what is in it; both slashes are kept as text."""

    def __str__(self) -> str:
        return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]+):/(?!/)", r"\1://", super().__str__())


def address_of(data: object) -> str | None:
    """Return the address that `data` is; None if it is a path of this machine or something else.

    A Path of an address has lost a slash (`s3:/bucket`), which is put back.
    """
    if not isinstance(data, str | Path | Address):
        return None
    found = _ADDRESS.fullmatch(str(data))
    if found is None or exists(expand(str(data))):
        return None
    return f"{found[1].lower()}://{found[2]}"


def check(address: str) -> None:
    """Check that an address may be read, and the cache be used, before a request is made.

    Raises:
        DataError: It has a user name or password in it, or is a chain of addresses.
        CacheError: The limit of the cache is no number.
    """
    limit_bytes()
    if "::" in address.partition("?")[0]:
        raise DataError(f"{printable(address)}: addresses that are chained by :: are not read")
    if is_web(address) and "@" in urlsplit(address).netloc:
        host = urlsplit(address).netloc.rpartition("@")[2]
        raise DataError(
            f"an address of {printable(host)} has a user name or password in it, which recipes and "
            f"run folders would show",
            hint="leave it out",
        )


def is_web(address: str) -> bool:
    """Whether an address is of http or https."""
    return address.startswith(("http://", "https://"))


def server_of(address: str) -> str:
    """Return the scheme and the host or bucket of an address."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0].lower()}"


def path_of(address: str) -> str:
    """Return an address without its query, for its name and extension."""
    return re.split("[?#]", address, maxsplit=1)[0] if is_web(address) else address


def beside(address: str, path: str) -> str:
    """Return the address of a path that is relative to the folder of another address.

    An absolute path is relative to the host or bucket, and `..` does not lead out of it.
    """
    server = server_of(address)
    folder = posixpath.dirname(path_of(address)[len(server) :])
    path = quote(path) if is_web(address) else path  # The folder is encoded already.
    joined = posixpath.normpath(posixpath.join("/", folder, path)).lstrip("/")
    return f"{server}/{joined}"
