"""LongBench's archive from the hub, into the cache that huggingface_hub shares with other tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from ...errors import HubError
from ...models.hub import hub_errors
from ...models.quiet import quiet_library

REPO: Final = "THUDM/LongBench"
FILE: Final = "data.zip"


def archive(token: str | None = None, offline: bool = False) -> Path:
    """The path of data.zip, which is downloaded if it is not in the cache; HubError in one sentence if that fails."""
    cached = try_to_load_from_cache(REPO, FILE, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    if offline or constants.HF_HUB_OFFLINE:
        raise HubError(
            f"{FILE} of {REPO} is not in the cache; leave out --offline (and HF_HUB_OFFLINE), or give a directory with "
            "LongBench's files (--data DIR)"
        )
    click.echo(f"downloading {FILE} of {REPO}", err=True)
    without_bar = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if without_bar:
        disable_progress_bars()
    try:
        with quiet_library(), hub_errors(REPO):
            # which it does not ask again and again, half a minute long, before it says that nobody answers
            get_hf_file_metadata(hf_hub_url(REPO, FILE, repo_type="dataset"), token=token)
            return Path(hf_hub_download(REPO, FILE, repo_type="dataset", token=token))
    finally:
        if without_bar:
            enable_progress_bars()
