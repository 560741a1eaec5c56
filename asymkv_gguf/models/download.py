"""Fetching a model's files into huggingface_hub's cache; a broken or killed download goes on where it ended.

huggingface_hub resumes within one process only. So the bytes are collected here, by its own HTTP function, in the
`.incomplete` file that its cache has for them, under its own lock; then it is left to it to link them into the snapshot.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from ..errors import HubError, HubUnreachableError
from ..stats import size_text
from .cache import cache_dir, repo_dir
from .hub import NETWORK_ERRORS, HubFile, Listing, hub_errors, reason_of
from .progress import DownloadProgress, download_progress
from .quiet import quiet_library
from .selection import Model
from .space import check_space

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ATTEMPTS = 3  # in a row that bring no byte; huggingface_hub's function makes several of its own


def download(listing: Listing, model: Model[HubFile], token: str | None = None) -> list[Path]:
    """All files of `model`, as far as they are missing; returns their paths."""
    linked = (_linked(listing, file) for file in model.files)
    paths = [path for path in linked if path is not None]
    if len(paths) < len(model.files):
        present = sum(_bytes_present(listing.repo, file) for file in model.files)
        what = f"{listing.repo}:{model.quant}"
        check_space(cache_dir(), model.size - present, what)
        with quiet_library(), download_progress(what, model.size, present) as progress:
            paths = [_fetch(listing, file, token, progress) for file in model.files]
    if len({str(path)[: -len(file.path)] for path, file in zip(paths, model.files, strict=True)}) > 1:
        raise HubError(f"{listing.repo} was changed while it was downloaded; run the command again")
    return paths


def _linked(listing: Listing, file: HubFile) -> Path | None:
    """The file's path in the snapshot, if it is whole."""
    path = repo_dir(listing.repo) / "snapshots" / listing.commit / Path(file.path)
    return path if path.is_file() else None


def _blob(repo: str, etag: str) -> Path:
    return repo_dir(repo) / "blobs" / etag


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _bytes_present(repo: str, file: HubFile) -> int:
    blob = _blob(repo, file.blob)
    for path in (blob, _partial(blob)):
        if file.blob and path.is_file():
            return min(path.stat().st_size, file.size)
    return 0


def _fetch(listing: Listing, file: HubFile, token: str | None, progress: DownloadProgress) -> Path:
    repo = listing.repo
    with hub_errors(repo):
        url = hf_hub_url(repo, file.path, revision=listing.commit)
        metadata = get_hf_file_metadata(url, token=token)
    size = metadata.size if metadata.size is not None else file.size
    if metadata.etag and size <= constants.MAX_HTTP_DOWNLOAD_SIZE:  # larger ones come by xet, from huggingface_hub
        blob = _blob(repo, metadata.etag)
        lock = cache_dir() / ".locks" / repo_dir(repo).name / f"{blob.name}.lock"
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        present = _bytes_present(repo, file)
        with WeakFileLock(lock):  # another process may fetch the same file, and be done when we get the lock
            if not blob.exists():
                # the file's own address, as others may be signed for a short time only
                with _disk_errors(_partial(blob)):
                    _fetch_blob(url, blob, size, token, progress, f"{repo}/{file.path}")
            elif present < size:
                progress.say(f"{repo}/{file.path} was downloaded by another process")
    with hub_errors(repo):
        return Path(hf_hub_download(repo, file.path, token=token))


def _fetch_blob(url: str, blob: Path, size: int, token: str | None, progress: DownloadProgress, what: str) -> None:
    partial = _partial(blob)
    headers = build_hf_headers(token=token)
    headers["Accept-Encoding"] = "identity"  # ranges count the file's own bytes
    with PartialFile(partial, progress) as stream:
        is_whole = False
        for attempt in range(2):
            if attempt > 0:  # the partial file was not the beginning of this one
                progress.say(f"{what} arrived damaged; fetching it anew")
                stream.truncate(0)
            _receive(url, headers, stream, size, what, progress)
            stream.flush()
            is_whole = stream.size == size and _is_content_of(partial, blob.name)
            if is_whole:
                break
    if not is_whole:
        partial.unlink()
        raise HubError(f"{what} arrived damaged (its SHA-256 is not {blob.name[:12]}...) and was removed; try again later")
    partial.replace(blob)


def _receive(url: str, headers: dict[str, str], stream: PartialFile, size: int, what: str, progress: DownloadProgress) -> None:
    """Fills the file up to `size` bytes, over several connections if need be."""
    failures = 0
    while stream.size < size:
        before = stream.size
        try:
            http_get(url, stream, resume_size=before, headers=headers, expected_size=size)
        except HfHubHTTPError:
            with hub_errors(what):
                raise
        except NETWORK_ERRORS as error:
            if _is_of_disk(error):
                raise
            failures = failures + 1 if stream.size == before else 1
            if failures == _ATTEMPTS:
                raise HubUnreachableError(
                    f"the download of {what} broke after {size_text(stream.size)} of {size_text(size)} "
                    f"({reason_of(error)}); run the command again to go on from there"
                ) from error
            progress.say(f"the connection broke after {size_text(stream.size)}; trying again")
            time.sleep(failures - 1)


class PartialFile(io.BufferedWriter):
    """An `.incomplete` file that is appended to, and tells the progress."""

    def __init__(self, path: Path, progress: DownloadProgress) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self.size = path.stat().st_size
        self._progress = progress

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        written = super().write(data)
        self.size += written
        self._progress.advance(written)
        return written

    def truncate(self, size: int | None = None) -> int:
        left = super().truncate(size)
        self._progress.advance(left - self.size)
        self.size = left
        return left


def _is_of_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError)


@contextmanager
def _disk_errors(partial: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not _is_of_disk(error):
            raise
        kept = size_text(partial.stat().st_size) if partial.exists() else "0 bytes"
        raise HubError(
            f"{partial} could not be written after {kept} ({error.strerror}); make room, and run the command again to go on "
            "from there"
        ) from error


def _is_content_of(file: Path, etag: str) -> bool:
    """Large files are named after their SHA-256; of small ones nothing is known."""
    if not _SHA256.fullmatch(etag):
        return True
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == etag
