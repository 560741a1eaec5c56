"""A chat: lines become messages or commands, answers are written as they come, and what they took is said."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..stats import size_text
from .commands import COMMANDS, run_command
from .conversation import Conversation, Turn
from .endless import full_cache_bytes
from .terminal import Terminal

if TYPE_CHECKING:
    from ..session import Session
    from ..session_file import SessionFile


class Chat:
    """A conversation at a terminal; `session` is the file where it is kept, if it is."""

    def __init__(self, conversation: Conversation, terminal: Terminal, session: SessionFile | None = None) -> None:
        self.conversation = conversation
        self.terminal = terminal
        self.session = session
        conversation.on_reread = self._note_reread
        self.leaving = False
        self._attached: list[str] = []
        self._n_compressions = 0

    def run(self, first: str | None = None, *, single_turn: bool = False) -> None:
        """`first`, then what is entered, until /exit or the end of the input; or until there is one answer."""
        if first is not None:
            self.handle_safely("/" + first if first.startswith("/") else first)  # no command
        if single_turn and self.conversation.turn.finish_reason:
            return
        for line in self.terminal.lines(list(COMMANDS)):
            self.handle_safely(line)
            if self.leaving or (single_turn and self.conversation.turn.finish_reason):
                return

    def handle_safely(self, line: str) -> None:
        """What goes wrong is said, and the chat goes on; a script wants to know, and gets the error."""
        try:
            self.handle(line)
        except (ValueError, RuntimeError, OSError) as error:
            if not self.terminal.interactive or isinstance(error, BrokenPipeError):
                raise
            self.terminal.end_answer()
            self.terminal.note(f"asymkv-gguf: {error}")

    def save(self, path: Path | None = None) -> None:
        """To a file, or to the session's."""
        if path is not None and not (self.session is not None and self.session.is_at(path)):
            n_bytes = self.conversation.save(path)
            self.terminal.note(f"session {path}: saved {self.conversation.llm.n_tokens:,} tokens ({size_text(n_bytes)})")
        elif self.session is not None:
            self.terminal.note(self.session.save(self.conversation.llm, self.conversation))

    def load(self, path: Path) -> None:
        self._resumed(path, self.conversation.load(path))

    def resume(self) -> None:
        """Goes on with the session's file."""
        if self.session is not None:
            self._resumed(self.session.path, self.session.resume(self.conversation.llm, self.conversation))

    def _resumed(self, path: Path, session: Session) -> None:
        self._attached.clear()
        if self.conversation.llm.asymkv is not None:
            self._n_compressions = self.conversation.llm.asymkv_stats().compressions
        n_turns = self.conversation.n_turns
        turns = f"{n_turns} answer{'' if n_turns == 1 else 's'}"
        self.terminal.note(f"session {path}: goes on after {turns} and {session.n_tokens:,} tokens, which are not read again")

    def handle(self, line: str) -> None:
        """A message, or a command."""
        if line.startswith("/") and not line.startswith("//"):
            run_command(self, line)
        elif line.strip():
            message = line.removeprefix("/") if line.startswith("//") else line
            text = "\n\n".join([*self._attached, message])
            n_turns = self.conversation.n_turns
            try:
                self.answer(self.conversation.say(text))
            finally:
                if self.conversation.n_turns > n_turns:
                    self._attached.clear()

    def attach(self, text: str) -> None:
        """Text that goes before the next message."""
        self._attached.append(text.rstrip())

    def clear(self) -> None:
        self.conversation.clear()
        self._attached.clear()

    def answer(self, pieces: Generator[str, None, None]) -> None:
        """Writes an answer as it comes; Ctrl-C ends it."""
        conversation, terminal = self.conversation, self.terminal
        # closed: whatever breaks off the writing, what was written belongs to the conversation
        with (
            closing(pieces),
            terminal.interruptible(conversation.stop),
            terminal.reading() as conversation.on_progress,
        ):
            first = True
            try:
                for piece in pieces:
                    terminal.write(piece.lstrip() if first else piece)
                    first = first and not piece.strip()
            except BaseException:
                with suppress(OSError):  # the terminal may be gone
                    terminal.end_answer()
                raise
        terminal.end_answer()
        turn = conversation.turn
        if turn.finish_reason == "stopped":
            terminal.note("stopped" if turn.n_written else "stopped while reading; the message was taken back")
        if turn.n_written and turn.n_prompt + turn.n_written >= conversation.llm.n_ctx():
            terminal.note(f"n_ctx is full ({conversation.llm.n_ctx():,} tokens): raise it with -c, or /undo, or /clear")
        self._note_merges()
        terminal.note(f"[{self._status(turn)}]", dim=True)

    def _note_merges(self) -> None:
        if self.conversation.llm.asymkv is None:
            return
        stats = self.conversation.llm.asymkv_stats()
        if stats.compressions > self._n_compressions:
            self.terminal.note(f"asymkv: {stats.notice(full_cache_bytes(self.conversation.llm, stats))}")
        self._n_compressions = stats.compressions

    def _note_reread(self, n_again: int, n_kept: int) -> None:
        self.terminal.note(f"reading {n_again:,} tokens again, {n_kept:,} are kept")

    def _status(self, turn: Turn) -> str:
        llm = self.conversation.llm
        parts = [f"{llm.n_tokens:,} tokens"]
        if llm.asymkv is not None:
            stats = llm.asymkv_stats()
            parts[0] += f" in {stats.slots:,} slots"
            if (saved := full_cache_bytes(llm, stats) - stats.kv_bytes) > 0:
                parts.append(f"{size_text(saved)} saved")
        parts.append(f"read {turn.n_read:,}{_speed(turn.n_read, turn.read_seconds)}")
        parts.append(f"wrote {turn.n_written:,}{_speed(turn.n_steps, turn.write_seconds)}")
        return ", ".join(parts)


def _speed(n_tokens: int, seconds: float) -> str:
    if n_tokens == 0 or seconds <= 0:
        return ""
    speed = n_tokens / seconds
    return f" at {speed:,.0f} t/s" if speed >= 10 else f" at {speed:.1f} t/s"
