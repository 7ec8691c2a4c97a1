"""Files of object storage and other systems that fsspec knows, in one version only."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from zoo.data.remote import errors
from zoo.data.remote.errors import TransientError, changed, denied
from zoo.errors import DataError
from zoo.io.text import printable

#: Names of versions in what fsspec's systems tell of a file, in order of preference.
_VERSIONS = (
    "ETag",
    "etag",
    "generation",
    "md5",
    "LastModified",
    "last_modified",
    "mtime",
    "created",
)

#: Systems that are packages of their own, with what installs them.
_PACKAGES = {
    "s3": "'zoo-finetune[remote]'",
    "s3a": "'zoo-finetune[remote]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}

_S3 = ("s3", "s3a")


def stat(address: str) -> tuple[int, str]:
    """Ask for (size in bytes, version) of a file.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: There is no such system, or it denies access.
        TransientError: Another attempt may succeed.
    """
    system, path = _of(address)
    with _converting(address):
        about = system.info(path)
    if about.get("type") == "directory":
        raise FileNotFoundError(f"{address} is a folder")
    return _facts(about)


def listed(address: str, *, deep: bool) -> list[tuple[str, int, str]]:
    """List (address, size in bytes, version) of the files in a folder, in any order.

    Args:
        address: The folder.
        deep: Also list those in its subfolders.

    Raises:
        FileNotFoundError: There is no such folder.
        DataError, TransientError: As `stat`.
    """
    system, path = _of(address)
    scheme = address.partition("://")[0]
    with _converting(address):
        if deep:
            found = list(system.find(path, withdirs=False, detail=True).values())
        else:
            found = system.ls(path, detail=True)
    found = [each for each in found if each.get("type") == "file" and each["name"][-1:] != "/"]
    return [(f"{scheme}://{each['name'].lstrip('/')}", *_facts(each)) for each in found]


def read(address: str, *, version: str, offset: int, size: int) -> bytes:
    """Read a range of a file, which must still be the one of that version.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: It has changed, or access is denied.
        TransientError: Another attempt may succeed.
    """
    system, path = _of(address)
    with _converting(address):
        if address.partition("://")[0] in _S3:
            return _read_s3(system, path, version, offset, size)
        content: bytes = system.cat_file(path, start=offset, end=offset + size)
        # What was read before the file still had this version is of this version.
        if _facts(system.info(path))[1] != version:
            raise changed(address)
    return content


def _read_s3(system: Any, path: str, version: str, offset: int, size: int) -> bytes:
    from fsspec.asyn import sync

    async def body() -> bytes:
        bucket, key, _ = system.split_path(path)
        span = f"bytes={offset}-{offset + size - 1}"
        answer = await system._call_s3(
            "get_object", Bucket=bucket, Key=key, Range=span, IfMatch=version, **system.req_kw
        )
        try:
            content: bytes = await answer["Body"].read()
        finally:
            answer["Body"].close()
        return content

    content: bytes = sync(system.loop, body)
    return content


def _facts(about: Mapping[str, Any]) -> tuple[int, str]:
    version = next((about[name] for name in _VERSIONS if about.get(name) is not None), "")
    # A listing may have the same time as a number of seconds.
    text = str(version.timestamp() if isinstance(version, datetime) else version)
    return int(about.get("size") or 0), text


def _of(address: str) -> tuple[Any, str]:
    """Return (fsspec's system, path there) of an address.

    Raises:
        DataError: There is no such system, or it can't be imported.
    """
    scheme = address.partition("://")[0]
    system = _system(scheme, os.getpid())
    return system, system._strip_protocol(address)


@functools.lru_cache(maxsize=8)
def _system(scheme: str, process: int) -> Any:
    """Return a system, once in each process: a forked one can't use the threads of the other."""
    import fsspec

    options: dict[str, Any] = {}
    if scheme in _S3:
        # Attempts are repeated in one place, `retrying`.
        limits = {"connect_timeout": errors.SECONDS, "read_timeout": errors.SECONDS}
        options["config_kwargs"] = {**limits, "retries": {"total_max_attempts": 1}}
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        raise DataError(
            f"{scheme}:// can't be read: {printable(str(error).partition(chr(10))[0])}",
            hint=f"pip install {package}" if package else None,
        ) from error
    except ValueError as error:
        raise DataError(
            f"{printable(scheme)}:// can't be read: there is no such kind of address",
            hint="give a path, or an address such as s3://, gs:// or https://",
        ) from error
    try:
        system = kind(use_listings_cache=False, skip_instance_cache=True, **options)
    except Exception as error:  # as in _converting
        raise DataError(
            f"{scheme}:// can't be read: {printable(_first_line(error))}",
            hint="set what its package needs, such as credentials, in the environment",
        ) from error
    if scheme in _S3:
        system.retries = 1
    return system


@contextmanager
def _converting(address: str) -> Iterator[None]:
    """Convert what systems raise, which are errors of their libraries too."""
    try:
        yield
    except (FileNotFoundError, DataError):
        raise
    except Exception as error:  # botocore, aiohttp and others have errors of their own
        code = _code_of(error)
        if code in ("PreconditionFailed", "412", "InvalidRange", "416"):
            raise changed(address) from error
        if code in ("401", "403") or _is_denial(error):
            raise denied(address, _first_line(error)) from error
        raise TransientError(f"{type(error).__name__}: {_first_line(error)}") from error


def _code_of(error: BaseException) -> str:
    """Return the code or status that a library's error has; empty if it has none."""
    answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    about = answer.get("Error") if isinstance(answer, dict) else None
    if isinstance(about, dict):
        return str(about.get("Code", ""))
    # Those of adlfs (azure-core) and gcsfs.
    return str(getattr(error, "status_code", None) or getattr(error, "code", None) or "")


def _is_denial(error: Exception) -> bool:
    return (
        isinstance(error, PermissionError)
        or "Credential" in type(error).__name__
        or str(error).startswith("Forbidden")  # gcsfs has no other sign of it.
    )


def _first_line(error: Exception) -> str:
    """Return what an error says; those of Azure have the answer of the server below."""
    return str(error).partition("\n")[0] or type(error).__name__
