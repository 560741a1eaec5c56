"""A conversation as the model's own chat template spells it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llama_cpp import llama_chat_format

from ..chat_template import template_errors
from ..llama import Llama
from ..tokens import common_prefix

Message = dict[str, str]  # role and content


@dataclass(frozen=True)
class Prompt:
    """The rendered text, its tokens, and the texts that end an answer."""

    text: str
    tokens: list[int]
    stop: tuple[str, ...]


_now: ContextVar[datetime | None] = ContextVar("_now", default=None)


def _strftime_now(spec: str) -> str:
    return (_now.get() or datetime.now()).strftime(spec)


# many templates put the date before everything else: a conversation that goes on the next day would be read again, all of it
llama_chat_format.Jinja2ChatFormatter.strftime_now = staticmethod(_strftime_now)


def render(llm: Llama, messages: Sequence[Message], now: datetime | None = None) -> Prompt:
    """What llama_cpp's own chat handler would let the model read; `now` is the time for templates that tell it.

    ValueError if the template refuses the messages.
    """
    handler = (
        llm.chat_handler
        or llm._chat_handlers.get(llm.chat_format)
        or llama_chat_format.get_chat_completion_handler(llm.chat_format)
    )
    recorder = _Recorder(llm)
    token = _now.set(now)
    try:
        with template_errors(llm.model_path):
            deque(handler(llama=recorder, messages=list(messages), stream=True), maxlen=0)
    finally:
        _now.reset(token)
    return Prompt(recorder.text.decode(), recorder.tokens, tuple(text for text in recorder.stop if text))


def n_system_tokens(llm: Llama, system: str) -> int:
    """First tokens of every conversation with this system prompt, whatever the user says."""
    first, second = (
        render(llm, [{"role": "system", "content": system}, {"role": "user", "content": text}]).tokens for text in ("1", "x")
    )
    return common_prefix(first, second)


class _Recorder:
    """Stands where the model does in llama_cpp's chat handlers, and keeps what they ask it to complete."""

    def __init__(self, llm: Llama) -> None:
        self._llm = llm
        self.text = b""
        self.tokens: list[int] = []
        self.stop: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        self.text = text
        return self._llm.tokenize(text, add_bos, special)

    def create_completion(self, prompt: list[int], stop: list[str] | None = None, **_: Any) -> Any:
        self.tokens, self.stop = prompt, list(stop or ())
        return iter(())
