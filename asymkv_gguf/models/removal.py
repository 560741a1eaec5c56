"""Removing models from the cache: GGUF files of one repository, and blobs that nothing refers to any more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CachedFileInfo, CachedRepoInfo, DeleteCacheStrategy, HFCacheInfo

from ..errors import HubError
from .cache import cache_dir, repo_dir
from .inventory import models_in, path_in, scan
from .name import ModelName
from .quiet import quiet_library
from .selection import find, part_paths


@dataclass(frozen=True)
class Removal:
    """What would go; nothing has happened until `execute`."""

    name: str
    files: tuple[str, ...]  # paths in the repository
    freed: int
    strategies: tuple[DeleteCacheStrategy, ...]
    interrupted: tuple[Path, ...]

    def execute(self) -> None:
        for strategy in self.strategies:
            with quiet_library():
                strategy.execute()
            left = [path for path in (*strategy.repos, *strategy.snapshots, *strategy.blobs) if os.path.lexists(path)]
            if left:  # which huggingface_hub only logs
                raise HubError(f"{left[0]} could not be removed; check its permissions")
        for partial in self.interrupted:
            partial.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: it is still needed
                partial.parent.rmdir()
                partial.parent.parent.rmdir()


def plan_removal(name: ModelName) -> Removal:
    """What has to go for `name`: one model, or (without a quant) every GGUF file and interrupted download of the repository."""
    info = scan()
    repos = info.repos if info is not None else ()
    repo = next((one for one in repos if one.repo_type == "model" and one.repo_id == name.repo), None)
    everything = name.quant is None and name.file is None
    interrupted = tuple(sorted(repo_dir(name.repo).glob("blobs/*.incomplete"))) if everything else ()
    selected = _selected(name, repo, everything) if repo is not None else {}
    if not selected and not interrupted:
        raise HubError(f"nothing of {name.repo} is in the cache ({cache_dir()})")
    strategies: list[DeleteCacheStrategy] = []
    if selected and info is not None and repo is not None:
        others = {file for revision in repo.revisions for file in revision.files} - selected.keys()
        if others:
            strategies.append(_of_files(info, selected.keys(), others))
        else:  # then the repository's directory goes, too
            strategies.append(info.delete_revisions(*(revision.commit_hash for revision in repo.revisions)))
    freed = sum(strategy.expected_freed_size for strategy in strategies) + sum(file.stat().st_size for file in interrupted)
    return Removal(str(name), tuple(sorted(set(selected.values()))), freed, tuple(strategies), interrupted)


def _of_files(info: HFCacheInfo, files: Set[CachedFileInfo], others: Set[CachedFileInfo]) -> DeleteCacheStrategy:
    """huggingface_hub's strategy for commits, applied to single files (its own for those is not in all its versions)."""
    kept = {file.blob_path for file in others}
    blobs = {file.blob_path: file.size_on_disk for file in files if file.blob_path not in kept}
    links = frozenset(file.file_path for file in files)
    # without symlinks, a file of a snapshot is its own blob
    return replace(
        info.delete_revisions(), expected_freed_size=sum(blobs.values()), snapshots=links, blobs=frozenset(blobs) - links
    )


def _selected(name: ModelName, repo: CachedRepoInfo, everything: bool) -> dict[CachedFileInfo, str]:
    """The files to remove, in every commit, with their paths in the repository."""
    paths = {file: path_in(revision, file) for revision in repo.revisions for file in revision.files}
    if everything:
        return {file: path for file, path in paths.items() if path.lower().endswith(".gguf")}
    models = models_in(repo)
    if not models:
        return {}
    parts = part_paths(find(name, models, f"the cache of {name.repo}"))
    return {file: path for file, path in paths.items() if path in parts}
