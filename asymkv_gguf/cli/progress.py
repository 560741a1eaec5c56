"""Reading a long text: how many tokens, how long, and a bar on stderr if that is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

import click

from ..llama import Llama


class Reading:
    """Watches the first text that `llm` evaluates inside of the `with` block."""

    def __init__(self, llm: Llama) -> None:
        self.n_tokens = 0
        self.seconds = 0.0
        self._llm = llm
        self._bar: Any = None
        self._done = False

    def __enter__(self) -> Reading:
        self._started = time.perf_counter()
        self._llm.on_progress = self._on_progress
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._llm.on_progress = None
        self._close_bar()

    def _on_progress(self, done: int, total: int) -> None:
        if self._done:  # what is evaluated now are the tokens of the answer
            return
        self.n_tokens = total
        self.seconds = time.perf_counter() - self._started
        self._done = done >= total
        if self._bar is None and not self._done and sys.stderr.isatty():
            self._bar = click.progressbar(length=total, label="reading", file=sys.stderr, show_pos=True)
            self._bar.__enter__()
        if self._bar is not None:
            self._bar.update(done - self._bar.pos)
        if self._done:
            self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
