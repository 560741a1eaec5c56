"""Reading a long text: how many tokens, how long, and a bar on stderr if that is a terminal."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from ..llama import Llama

if TYPE_CHECKING:
    from ..reading_bar import ReadingBar


class Reading:
    """Watches the first text that `llm` evaluates inside of the `with` block."""

    def __init__(self, llm: Llama) -> None:
        self.n_tokens = 0
        self.seconds = 0.0
        self._llm = llm
        self._bar = _bar() if sys.stderr.isatty() else None
        self.done = False

    def __enter__(self) -> Reading:
        self._started = time.perf_counter()
        self._llm.on_progress = self._on_progress
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._llm.on_progress = None
        self._close_bar()

    def _on_progress(self, done: int, total: int) -> None:
        if self.done:  # what is evaluated now are the tokens of the answer
            return
        self.n_tokens = total
        self.seconds = time.perf_counter() - self._started
        self.done = done >= total
        if self._bar is not None:
            self._bar.update(done, total)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _bar() -> ReadingBar:
    from rich.console import Console

    from ..reading_bar import ReadingBar

    return ReadingBar(Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR"))))
