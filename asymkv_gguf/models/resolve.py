"""From a model's name to the file to open."""

from __future__ import annotations

from pathlib import Path

import click
from huggingface_hub import constants

from ..errors import HubError, HubUnreachableError
from .cache import cached_files
from .download import download
from .hub import list_repo
from .name import ModelName
from .selection import choose, models_of


def local_path(name: ModelName, *, token: str | None = None, offline: bool = False) -> Path:
    """The file to open: the only one of the model, or its first part."""
    return local_files(name, token=token, offline=offline)[0]


def local_files(name: ModelName, *, token: str | None = None, offline: bool = False) -> list[Path]:
    """The model's files, downloaded if they are not in the cache; HubError in one sentence if that fails.

    `offline` (or HF_HUB_OFFLINE) takes only what is cached. Without a connection, too, what is cached is taken.
    """
    if offline or constants.HF_HUB_OFFLINE:
        try:
            return cached_files(name)
        except HubError as error:
            raise HubError(f"{error}; leave out --offline (and HF_HUB_OFFLINE) to download it") from error
    try:
        listing = list_repo(name.repo, token)
    except HubUnreachableError as error:
        try:
            files = cached_files(name)
        except HubError as not_cached:
            raise HubUnreachableError(f"{error}; {not_cached}") from error
        click.echo(f"{error}; taking what is cached (--offline does not ask)", err=True)
        return files
    models = models_of((file.path, file.size, file) for file in listing.files)
    return download(listing, choose(name, models, name.repo), token)
