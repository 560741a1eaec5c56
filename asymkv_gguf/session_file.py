"""--session FILE: what a command resumes at its start and saves at its end."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import SessionError
from .llama import Llama
from .session import Session, load_session, save_session
from .signals import uninterrupted
from .stats import size_text

if TYPE_CHECKING:
    from .chat.conversation import Conversation


class SessionFile:
    """A session's file, which may not be there yet. SessionError where none could be saved later."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        directory = Path(os.path.realpath(self.path)).parent
        if not directory.is_dir():
            raise SessionError(f"session {path} cannot be saved: there is no directory {directory}")
        if not os.access(directory, os.W_OK):
            raise SessionError(f"session {path} cannot be saved: directory {directory} is not writable")
        self._ours = _identity(self.path)

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def is_at(self, path: Path) -> bool:
        return os.path.realpath(path) == os.path.realpath(self.path)

    def resume(self, llm: Llama, conversation: Conversation | None = None) -> Session:
        """Goes on with the text, or with the conversation; nothing is read again."""
        self._ours = _identity(self.path)
        return conversation.load(self.path) if conversation is not None else load_session(llm, self.path, check=self._is_text)

    def save(self, llm: Llama, conversation: Conversation | None = None) -> str:
        """Saves; returns a sentence about it. What another process saved there meanwhile stays, and ours goes beside it."""
        now = _identity(self.path)
        taken = now is not None and now != self._ours
        before, self.path = self.path, _free_name(self.path) if taken else self.path
        with uninterrupted():
            n_bytes = conversation.save(self.path) if conversation is not None else save_session(llm, self.path)
        self._ours = _identity(self.path)
        saved = f"session {self.path}: saved {llm.n_tokens:,} tokens ({size_text(n_bytes)})"
        return f"{saved}, as {before} was changed by another process meanwhile" if taken else saved

    def _is_text(self, session: Session) -> None:
        if "messages" in session.extra:
            raise SessionError(f"session {self.path} holds a conversation; give -st for its next turn, or use chat")


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Another one after every save: a session is always written into a new file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(name for name in names if not name.exists())
