"""The terminal of a chat: lines in, the answer to stdout, everything else to stderr. Also works as a pipe."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from ..reading_bar import ReadingBar
from ..signals import signals_to

PROMPT = "> "

# a model must not be able to move the cursor, or to rename the window
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


class Hangup(KeyboardInterrupt):
    """The terminal was closed, or the system asks to end."""


class Terminal:
    """What a chat needs of the outside."""

    def __init__(self) -> None:
        #: a person sits there, rather than a pipe or a script
        self.interactive = sys.stdin.isatty() and (sys.stderr.isatty() or sys.stdout.isatty())
        self.color = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, no_color=not self.color)
        self._shown = sys.stdout.isatty()
        self._column_0 = True  # of stdout

    @property
    def width(self) -> int:
        return self._console.width

    # input

    def lines(self, commands: list[str]) -> Iterator[str]:
        """What the user enters, until the end of the input; `commands` are completed with Tab."""
        return self._typed_lines(commands) if self.interactive else self._piped_lines()

    def _typed_lines(self, commands: list[str]) -> Iterator[str]:
        from .line_editor import LineEditor

        editor = LineEditor(commands)
        interrupted = False
        while True:
            try:
                line = editor.read(PROMPT)
            except EOFError:
                return
            except KeyboardInterrupt as interrupt:
                if isinstance(interrupt, Hangup) or (interrupted and not editor.text):
                    raise
                interrupted = not editor.text
                if interrupted:
                    self.note("Ctrl-C again, or Ctrl-D, leaves")
                continue
            interrupted = False
            yield line

    def _piped_lines(self) -> Iterator[str]:
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number} of standard input is not UTF-8 text; convert it first") from error

    # output

    def write(self, piece: str) -> None:
        """A piece of an answer."""
        sys.stdout.write(piece.translate(_CONTROLS) if self._shown else piece)
        sys.stdout.flush()
        if piece:
            self._column_0 = piece.endswith("\n")

    def end_answer(self) -> None:
        if not self._column_0:
            self.write("\n")

    def note(self, text: str | Text, *, dim: bool = False) -> None:
        """A line about the chat."""
        # logs keep lines whole
        self._console.print(text, style="dim" if dim and self.color else None, soft_wrap=not self._console.is_terminal)

    @contextmanager
    def hangups(self) -> Iterator[None]:
        """A closed terminal ends the chat as Ctrl-C does, so that what has to be saved is saved."""

        def on_hangup(number: int, frame: FrameType | None) -> None:
            raise Hangup

        with signals_to(on_hangup, "SIGHUP", "SIGTERM"):
            yield

    # while an answer is made

    @contextmanager
    def interruptible(self, stop: Callable[[], None]) -> Iterator[None]:
        """The first Ctrl-C calls `stop`, the second one leaves."""
        if not self.interactive:
            yield
            return
        count = 0

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            nonlocal count
            count += 1
            if count > 1:
                raise KeyboardInterrupt
            stop()

        with signals_to(on_interrupt, "SIGINT"):
            yield

    @contextmanager
    def reading(self) -> Iterator[Callable[[int, int], None]]:
        """Takes (tokens read, tokens there are) while a text is read; shows texts that are longer than a batch."""
        bar = ReadingBar(self._console) if sys.stderr.isatty() else _Lines(self.note)
        try:
            yield bar.update
        finally:
            bar.close()


class _Lines:
    """For logs: a line for each quarter of a text that takes at least that many batches."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._quarter = 0
        self._started = time.perf_counter()

    def update(self, done: int, total: int) -> None:
        quarter = done * 4 // total
        if self._quarter < quarter < 4:
            speed = done / (time.perf_counter() - self._started)
            self._note(f"reading: {done:,} of {total:,} tokens, {speed:,.0f} t/s, {(total - done) / speed:,.0f} s left")
        self._quarter = quarter % 4

    def close(self) -> None:
        pass


def history_file() -> Path | None:
    """Where typed lines are kept; None if there is no such place."""
    import platformdirs

    directory = platformdirs.user_state_path("asymkv-gguf")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "chat_history"
        file.touch(mode=0o600, exist_ok=True)
        return file if os.access(file, os.W_OK) else None
    except OSError:
        return None
