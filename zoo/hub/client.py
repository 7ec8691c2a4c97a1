"""The Hub's client: names of repositories, and its errors as zoo's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zoo.errors import HubError, ZooError
from zoo.io.text import clip
from zoo.weights.hub import is_reachable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: How to give the Hub's client a token.
LOG_IN = "`hf auth login` or HF_TOKEN gives the Hub's client your token"


def client(*, writing: bool = False) -> HfApi:
    """Return the Hub's client, for the Hub of HF_ENDPOINT and with the token of its own places.

    Args:
        writing: Whether a repository is going to be written, which needs a token.

    Raises:
        HubError: If the Hub can't be reached, HF_HUB_OFFLINE is set, or there is no token.
    """
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set", hint="unset it where there is a network")
    if not is_reachable(constants.ENDPOINT):
        raise HubError(
            f"{constants.ENDPOINT} can't be reached",
            hint="check the network; HF_ENDPOINT names another Hub, HTTPS_PROXY a proxy",
        )
    if writing and get_token() is None:
        raise HubError(f"not logged in to {constants.ENDPOINT}", hint=LOG_IN)
    return HfApi(endpoint=constants.ENDPOINT)


def check_name(repository: str) -> None:
    """Check the name of a repository.

    Raises:
        HubError: If it is not `OWNER/NAME`, or has characters that the Hub does not allow.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        if "/" not in repository:
            raise HFValidationError(f"{clip(repository)!r} is not OWNER/NAME")
        validate_repo_id(repository)
    except HFValidationError as error:
        raise HubError(
            f"not the name of a repository: {clip(str(error))}",
            hint="give OWNER/NAME, with your user name or that of an organisation",
        ) from error


@contextmanager
def translating(repository: str, *, writing: bool = False) -> Iterator[None]:
    """Raise errors of the Hub's client, and of the disk, as a `HubError`."""
    try:
        yield
    except ZooError:
        raise
    except Exception as error:  # the Hub's client has no common base class of its errors
        raise _translated(repository, error, writing=writing) from error


def _translated(repository: str, error: Exception, *, writing: bool) -> HubError:
    from huggingface_hub import constants, errors

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        # So it reports which file it was uploading.
        error = error.__cause__
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"access to {repository} is restricted",
            hint=f"request it at {constants.ENDPOINT}/{repository}; {LOG_IN}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{repository} has no such revision", hint="leave it out for the newest")
    if status == 403 or (status == 401 and writing):
        return HubError(
            f"{constants.ENDPOINT} refuses to let your token "
            f"{'write' if writing else 'read'} {repository}",
            hint=f"log in as a user with rights in {repository.partition('/')[0]}, with a token "
            f"that may {'write' if writing else 'read'}: {LOG_IN}",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"there is no repository {repository} on {constants.ENDPOINT}, or it is private",
            hint=f"check the name; if it is private, {LOG_IN}",
        )
    if status in (409, 412):
        return HubError(
            f"{repository} was changed by somebody else meanwhile", hint="look at it, and try again"
        )
    if isinstance(error, OSError) and status is None and error.errno is not None:
        return HubError(
            f"{error.strerror}{'' if error.filename is None else f': {error.filename}'}",
            hint="nothing is kept of the transfer; free the disk or choose another place",
        )
    line = (str(error) or type(error).__name__).splitlines()[0]
    return HubError(f"{repository}: {clip(line)}", hint="nothing is changed; try again later")
