"""What the hub has of a repository, and what its errors mean."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import HubError, HubUnreachableError

# what the HTTP library below huggingface_hub raises when a connection breaks; OSError: a proxy, TLS, a name that is not found
NETWORK_ERRORS: tuple[type[Exception], ...] = (OSError, HfHubHTTPError.__bases__[0])


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; `blob` is its name in the cache, for large files the SHA-256 of the content."""

    path: str
    size: int
    blob: str


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    repo: str
    commit: str
    files: tuple[HubFile, ...]


def list_repo(repo: str, token: str | None = None) -> Listing:
    """The files of the repository's main branch; HubError in one sentence if it cannot be had."""
    with hub_errors(repo):
        info = HfApi(token=token).model_info(repo, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    files = tuple(
        HubFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id or "")
        for file in info.siblings or ()
    )
    return Listing(repo, info.sha or constants.DEFAULT_REVISION, files)


@contextlib.contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence with a remedy."""
    hub = constants.ENDPOINT
    try:
        yield
    except GatedRepoError as error:
        raise HubError(
            f"{repo} is gated; accept its licence at {hub}/{repo} and set HF_TOKEN (or give -hft) to a token of your account"
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"there is no repository {repo} at {hub}, or it is private; check the name, or set HF_TOKEN (or give -hft) "
            "to a token that may read it"
        ) from error
    except (EntryNotFoundError, RevisionNotFoundError) as error:
        raise HubError(f"{repo} was changed while it was downloaded; run the command again") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise HubError(
                f"{hub} does not accept the token for {repo} (HTTP {status}); set HF_TOKEN (or give -hft) to a valid one, "
                "or unset it"
            ) from error
        raise HubUnreachableError(f"{hub} answered {repo} with HTTP {status}; try again later") from error
    except json.JSONDecodeError as error:
        raise HubUnreachableError(
            f"what answered {repo} at {hub} is not a hub; check HF_ENDPOINT, and whether a proxy or a login page is in between"
        ) from error
    except NETWORK_ERRORS as error:
        if isinstance(error, OSError) and error.filename is not None:  # not the network: a file of the cache
            raise
        raise HubUnreachableError(f"{hub} cannot be reached ({reason_of(error)}); check the connection") from error


def reason_of(error: BaseException) -> str:
    """The last cause's first line: the HTTP library wraps what the system said."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
