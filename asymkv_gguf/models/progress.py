"""How far a download is: a bar on stderr if that is a terminal, else a line at each tenth."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm import tqdm

from ..stats import size_text


class DownloadProgress:
    """Bytes of all files of a model; those that were there before are not counted into the rate."""

    def __init__(self, what: str, total: int, done: int) -> None:
        self._what, self._total, self._done = what, total, done
        self._started, self._first = time.perf_counter(), done
        self._tenth = self._tenths()
        self._bar: tqdm[None] | None = None
        if sys.stderr.isatty() and not are_progress_bars_disabled():
            self._bar = tqdm(
                desc=what,
                total=total,
                initial=done,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                dynamic_ncols=True,  # a narrow terminal gets a narrow bar
                mininterval=0,  # parts are megabytes: each is shown, also the last one before a connection stalls
                miniters=1,
            )
        resumed = f", going on after {size_text(done)}" if done else ""
        if self._bar is None:
            click.echo(f"downloading {what} ({size_text(total)}{resumed})", err=True)

    def advance(self, n_bytes: int) -> None:
        """`n_bytes` more are on the disk; fewer than none if the server began anew."""
        self._done += n_bytes
        if self._bar is not None:
            self._bar.update(n_bytes)
        elif self._tenths() > self._tenth and self._done < self._total:
            self._tenth = self._tenths()
            click.echo(f"{self._tenth * 10} % ({size_text(self._done)})", err=True)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            click.echo(text, err=True)

    def close(self, finished: bool) -> None:
        if self._bar is not None:
            self._bar.close()
        elif finished:
            seconds = time.perf_counter() - self._started
            click.echo(f"downloaded {self._what}: {size_text(self._done - self._first)} in {seconds:.1f} s", err=True)

    def _tenths(self) -> int:
        return self._done * 10 // self._total if self._total else 10


@contextmanager
def download_progress(what: str, total: int, done: int) -> Iterator[DownloadProgress]:
    """One bar for all files, in place of huggingface_hub's, which has one for each."""
    progress = DownloadProgress(what, total, done)
    silent = are_progress_bars_disabled()
    if not silent:
        disable_progress_bars()
    finished = False
    try:
        yield progress
        finished = True
    finally:
        progress.close(finished)
        if not silent:
            enable_progress_bars()
