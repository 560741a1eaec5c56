"""The models in the cache, with size and last use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    CachedFileInfo,
    CachedRepoInfo,
    CachedRevisionInfo,
    CacheNotFound,
    HFCacheInfo,
    constants,
    scan_cache_dir,
)

from .cache import cache_dir
from .selection import Model, models_of, newest_of


@dataclass(frozen=True)
class CachedModel:
    """A model in the cache; `name` is what -hf takes."""

    name: str
    repo: str
    quant: str
    size: int
    last_used: float  # seconds since 1970, as far as the file system keeps it
    path: Path
    is_whole: bool


def cached_models() -> list[CachedModel]:
    """All models in the cache, by name."""
    info = scan()
    repos = (repo for repo in info.repos if repo.repo_type == "model") if info is not None else ()
    return sorted((model for repo in repos for model in _models_of(repo)), key=lambda model: model.name)


def scan() -> HFCacheInfo | None:
    """What huggingface_hub finds in its cache; None if there is no cache yet."""
    try:
        return scan_cache_dir(cache_dir())
    except CacheNotFound:
        return None


def models_in(repo: CachedRepoInfo) -> list[Model[CachedFileInfo]]:
    """The models of a repository, each from the newest commit that has it whole."""
    return newest_of(
        model
        for revision in _newest_first(repo.revisions)
        for model in models_of((path_in(revision, file), file.size_on_disk, file) for file in revision.files)
    )


def path_in(revision: CachedRevisionInfo, file: CachedFileInfo) -> str:
    """The file's path in the repository."""
    return file.file_path.relative_to(revision.snapshot_path).as_posix()


def _newest_first(revisions: Iterable[CachedRevisionInfo]) -> list[CachedRevisionInfo]:
    return sorted(revisions, key=lambda one: (constants.DEFAULT_REVISION in one.refs, one.last_modified), reverse=True)


def _models_of(repo: CachedRepoInfo) -> list[CachedModel]:
    models = models_in(repo)
    of_quant = Counter(model.quant for model in models)
    return [
        CachedModel(
            name=f"{repo.repo_id}:{model.quant if of_quant[model.quant] == 1 else model.path}",
            repo=repo.repo_id,
            quant=model.quant,
            size=model.size,
            last_used=max(file.blob_last_accessed for file in model.files),
            path=model.files[0].file_path,
            is_whole=model.is_whole,
        )
        for model in models
    ]
