"""Files of Hugging Face Hub repositories, through the Hub's own client and cache."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from zoo.errors import WeightsUnavailableError


def split_id(hub_id: str) -> tuple[str, str | None]:
    """Return the repository's id and the revision, which follows an `@` as in timm."""
    name, _, revision = hub_id.partition("@")
    return name, revision or None


def hub_folder(hub_id: str) -> Path:
    """Return the folder of a repository in the Hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{split_id(hub_id)[0].replace('/', '--')}"


def in_hub_cache(hub_id: str, files: tuple[str, ...]) -> Path | None:
    """Return the first of these files of a repository that is in the Hub's cache."""
    # Most repositories are not there, and importing the client takes 0.2 s.
    if not hub_folder(hub_id).is_dir():
        return None
    from huggingface_hub import constants, try_to_load_from_cache

    name, revision = split_id(hub_id)
    for file in files:
        found = try_to_load_from_cache(
            name, file, cache_dir=constants.HF_HUB_CACHE, revision=revision
        )
        if isinstance(found, str):
            return Path(found)
    return None


def hub_file(hub_id: str, files: tuple[str, ...], *, current: bool = False) -> Path:
    """Return the first of these files that a repository has, downloaded if necessary.

    Args:
        hub_id: `OWNER/NAME`, or `OWNER/NAME@REVISION` with a branch, tag or commit.
        files: Names of files in the repository, in order of preference.
        current: Whether a branch means its newest commit, instead of one that is in the cache. If
            the Hub can't be reached, the one in the cache is used.

    Raises:
        WeightsUnavailableError: If the repository or the files don't exist, access is refused, or
            the Hub can't be reached.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    name, revision = split_id(hub_id)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise WeightsUnavailableError(f"hf-hub:{hub_id}: {_first_line(error)}") from error
    cached = in_hub_cache(hub_id, files)
    if cached is not None and not current:
        return cached
    offline = constants.HF_HUB_OFFLINE
    if offline or not is_reachable(constants.ENDPOINT):
        if cached is not None:
            return cached
        raise WeightsUnavailableError(
            "HF_HUB_OFFLINE is set, and the hub's cache lacks it"
            if offline
            else f"{constants.ENDPOINT} can't be reached"
        )
    for file in files:
        try:
            return Path(
                hf_hub_download(name, file, revision=revision, cache_dir=constants.HF_HUB_CACHE)
            )
        except LocalEntryNotFoundError as error:
            raise WeightsUnavailableError(f"{name}: {_first_line(error)}") from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the Hub's client has no common base class of its errors
            raise _unavailable(hub_id, error) from error
    raise WeightsUnavailableError(f"{hub_id} has none of {', '.join(files)}")


def _unavailable(hub_id: str, error: Exception) -> WeightsUnavailableError:
    from huggingface_hub import constants, errors

    name, revision = split_id(hub_id)
    log_in = "`hf auth login` or HF_TOKEN gives the Hub's client your token"
    if isinstance(error, errors.GatedRepoError):
        return WeightsUnavailableError(
            f"access to {name} is restricted",
            hint=f"request it at {constants.ENDPOINT}/{name}; {log_in}",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return WeightsUnavailableError(
            f"there is no repository {name} on {constants.ENDPOINT}, or it is private",
            hint=f"check the name; if it is private, {log_in}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsUnavailableError(f"{name} has no revision {revision!r}")
    return WeightsUnavailableError(f"{name}: {_first_line(error)}")


def is_reachable(url: str, timeout: float = 3.0) -> bool:
    """Return whether the host of `url` accepts a connection, or a proxy is set that may reach it.

    Args:
        url: URL with scheme and host; a `file:` URL needs no host.
        timeout: Timeout in seconds.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return True
    if parts.hostname is None:
        return False
    if parts.scheme in urllib.request.getproxies():
        return True
    port = parts.port or {"http": 80}.get(parts.scheme, 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=timeout).close()
    except OSError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
