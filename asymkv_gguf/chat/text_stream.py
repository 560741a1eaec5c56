"""Bytes of tokens as they come -> text that can be shown."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Holds back what may still change: the first bytes of a character, and what may become a text that ends the answer."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [text for text in stop if text]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._received = b""
        self.text = ""  # what was given out
        self.stopped = False  # a text of `stop` came

    def push(self, piece: bytes) -> str:
        """The text that is certain now."""
        self._received += piece
        return self._take(self._decoder.decode(piece))

    def finish(self) -> str:
        """The rest; bytes that are no character become U+FFFD."""
        shown = self._take(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        self.text += rest
        return shown + rest

    @property
    def exact(self) -> bool:
        """Whether all bytes that came were given out as text, unchanged."""
        return self._received == self.text.encode()

    def _take(self, text: str) -> str:
        text = self._held + text
        ends = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            shown, self._held = text[: min(ends)], ""
        else:
            n_held = max((_overlap(text, stop) for stop in self._stop), default=0)
            shown, self._held = text[: len(text) - n_held], text[len(text) - n_held :]
        self.text += shown
        return shown


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
