"""What is in huggingface_hub's cache, which other tools share."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from ..errors import HubError
from .name import ModelName
from .selection import Model, choose, models_of, newest_of


def cache_dir() -> Path:
    """HF_HUB_CACHE, or hub/ in HF_HOME."""
    return Path(constants.HF_HUB_CACHE).expanduser()


def repo_dir(repo: str) -> Path:
    return cache_dir() / repo_folder_name(repo_id=repo, repo_type="model")


def cached_files(name: ModelName) -> list[Path]:
    """The model's files, from the newest cached commit that has it; HubError if none has."""
    models = newest_of(model for snapshot in _snapshots(name.repo) for model in _models_in(snapshot))
    if not models:
        raise HubError(f"nothing of {name.repo} is in the cache ({cache_dir()})")
    return list(choose(name, models, f"the cache of {name.repo}").files)


def _snapshots(repo: str) -> list[Path]:
    """The commits in the cache, the main branch's first, then the latest."""
    directory = repo_dir(repo)
    try:
        main = (directory / "refs" / constants.DEFAULT_REVISION).read_text().strip()
    except OSError:
        main = ""
    found = [snapshot for snapshot in (directory / "snapshots").glob("*") if snapshot.is_dir()]
    return sorted(found, key=lambda snapshot: (snapshot.name == main, snapshot.stat().st_mtime), reverse=True)


def _models_in(snapshot: Path) -> list[Model[Path]]:
    files = (file for file in snapshot.rglob("*") if file.is_file())  # not a link whose blob is gone
    return models_of((file.relative_to(snapshot).as_posix(), file.stat().st_size, file) for file in files)
