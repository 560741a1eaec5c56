"""Typing a message: history, completion of commands, and more than one line."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter, WordCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.output import create_output

from .terminal import history_file

_WITH_FILE = ("/read", "/save", "/load")


class LineEditor:
    """Enter sends; after a backslash at the end, and with Alt, it begins another line. Pasted text is taken as it is."""

    def __init__(self, commands: list[str]) -> None:
        file = history_file()
        history: History = FileHistory(file) if file is not None else InMemoryHistory()
        self._session: PromptSession[str] = PromptSession(
            history=history,
            completer=_Completer(commands),
            complete_while_typing=False,
            key_bindings=_bindings(),
            multiline=True,
            prompt_continuation=lambda width, number, wrapped: "" if wrapped else "." * (width - 1) + " ",
            # stdout is for answers
            output=create_output(stdout=sys.stderr if sys.stderr.isatty() else sys.stdout),
        )

    def read(self, prompt: str) -> str:
        """One message; EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
        return self._session.prompt(prompt)

    @property
    def text(self) -> str:
        """What stood there when reading was broken off."""
        return self._session.default_buffer.text


class _Completer(Completer):
    """A command's name, then the file that it takes."""

    def __init__(self, commands: list[str]) -> None:
        self._names = WordCompleter(commands, sentence=True)
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        name, space, argument = document.text_before_cursor.partition(" ")
        if name.startswith("/") and not space:
            yield from self._names.get_completions(document, complete_event)
        elif name in _WITH_FILE:
            yield from self._files.get_completions(Document(argument), complete_event)


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _send(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\") and not buffer.document.text_after_cursor:
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _another_line(event: Any) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings
