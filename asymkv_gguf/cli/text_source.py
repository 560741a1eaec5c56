"""-f FILE and -p PROMPT: the text that a command reads."""

from __future__ import annotations

import sys

import click

from ..text_file import read_text_file

_PIPE = "-"
_REMEDY = "give -p PROMPT, -f FILE, or a pipe"


def read_text(file: str | None, prompt: str | None, may_be_empty: bool = False) -> str:
    """The file's text, then the prompt; without both, the pipe."""
    if file is None and prompt is None:
        if not sys.stdin.isatty():
            file = _PIPE
        elif not may_be_empty:
            raise click.UsageError(f"there is no text; {_REMEDY}")
    text = (read_file(file) if file is not None else "") + (prompt or "")
    if not text and not may_be_empty:
        raise click.UsageError(f"the text is empty; {_REMEDY}")
    return text


def read_file(file: str) -> str:
    """The text of a file; - is the pipe."""
    if file != _PIPE:
        return read_text_file(file)
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8 text (byte {error.start}); convert it first") from error
