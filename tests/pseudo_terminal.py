"""A command at a pseudo-terminal: what a person types, and the screen that a person sees."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import pexpect
import pyte

PASTE_BEGIN, PASTE_END = "\x1b[200~", "\x1b[201~"
ENTER, ALT_ENTER, TAB, CTRL_C, CTRL_D, UP = "\r", "\x1b\r", "\t", "\x03", "\x04", "\x1b[A"


class _Screen(pyte.Screen):
    """Answers the questions that a terminal is asked."""

    child: pexpect.spawn[str]

    def write_process_input(self, data: str) -> None:
        self.child.send(data)


class PseudoTerminal:
    """`asymkv-gguf arguments...` at a terminal of so many columns and lines."""

    def __init__(
        self, *arguments: object, cwd: Path, columns: int = 100, lines: int = 200, environment: Mapping[str, str] | None = None
    ) -> None:
        self._screen = _Screen(columns, lines)
        self._stream = pyte.Stream(self._screen)
        self.raw = ""  # everything that came
        self._child = self._screen.child = pexpect.spawn(
            sys.executable,
            ["-m", "asymkv_gguf", *map(str, arguments)],
            cwd=str(cwd),
            env={**os.environ, "TERM": "xterm-256color", "XDG_STATE_HOME": str(cwd / "state"), **(environment or {})},
            dimensions=(lines, columns),
            encoding="utf-8",
            echo=True,
        )
        self._child.delaybeforesend = None

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._child.close(force=True)

    @property
    def screen(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def type(self, text: str) -> None:
        self._child.send(text)

    def enter(self, text: str) -> None:
        self.type(text + ENTER)

    def paste(self, text: str) -> None:
        self.type(PASTE_BEGIN + text + PASTE_END)

    def hang_up(self) -> None:
        """What the system does when the window is closed."""
        self._child.kill(signal.SIGHUP)

    def wait_for(self, text: str, count: int = 1, timeout: float = 30) -> str:
        """The screen, as soon as `text` stands there so many times."""
        end = time.monotonic() + timeout
        while self.screen.count(text) < count:
            if not self._receive() or time.monotonic() > end:
                raise AssertionError(f"{text!r} is not {count} times on this screen:\n{self.screen}")
        return self.screen

    def wait_for_prompt(self) -> str:
        """The screen, as soon as the cursor stands behind an empty prompt."""
        end = time.monotonic() + 30
        while not (self._last_line() == ">" and self._screen.cursor.x == 2):
            if not self._receive() or time.monotonic() > end:
                raise AssertionError(f"no prompt on this screen:\n{self.screen}")
        return self.screen

    def wait_for_end(self) -> int:
        """The exit code."""
        while self._receive():
            pass
        self._child.wait()
        return int(self._child.exitstatus if self._child.exitstatus is not None else -1)

    def _last_line(self) -> str:
        return self._screen.display[self._screen.cursor.y].rstrip()

    def _receive(self) -> bool:
        """False: the command has ended."""
        try:
            text = self._child.read_nonblocking(65536, timeout=0.1)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += text
        self._stream.feed(text)
        return True
