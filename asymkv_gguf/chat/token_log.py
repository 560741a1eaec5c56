"""The tokens that were really read and written, so that an answer is never read again in another spelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..llama import Llama
from .prompt import Prompt


class TokenLog:
    """Text and tokens up to the end of the last answer; each answer's end is a place that can be gone back to.

    A model may write "walked" as two tokens where the tokenizer has one. The rendered conversation would then differ from
    the cache in the middle of an answer, and everything from there on would be read again.
    """

    def __init__(self) -> None:
        self._text = ""
        self._tokens: list[int] = []
        self._ends: list[tuple[int, int] | None] = []  # one for each answer; None: its tokens do not spell its text

    def spelled(self, prompt: Prompt, llm: Llama) -> Prompt:
        """The prompt with the log's tokens for the text that the log covers."""
        if not self._ends or self._ends[-1] is None or not prompt.text.startswith(self._text):
            return prompt
        tail = llm.tokenize(prompt.text[len(self._text) :].encode(), add_bos=False, special=True)
        if tail and prompt.tokens[-len(tail) :] != tail:  # the border lies inside a token: the template decides
            return prompt
        return replace(prompt, tokens=self._tokens + tail)

    def add(self, prompt: Prompt, answer: str, answer_tokens: Sequence[int], exact: bool) -> None:
        """The answer to a prompt; `exact` if its tokens spell its text, and nothing more."""
        if not exact:
            self._ends.append(None)
            return
        text, tokens = prompt.text + answer, [*prompt.tokens, *answer_tokens]
        if not (text.startswith(self._text) and tokens[: len(self._tokens)] == self._tokens):
            # the template has rewritten what was said before
            self._ends = [None] * len(self._ends)
        self._text, self._tokens = text, tokens
        self._ends.append((len(text), len(tokens)))

    def drop(self) -> None:
        """Forget the last answer."""
        if self._ends:
            self._ends.pop()
        n_text, n_tokens = next((end for end in reversed(self._ends) if end is not None), (0, 0))
        self._text, self._tokens = self._text[:n_text], self._tokens[:n_tokens]

    def as_dict(self) -> dict[str, Any]:
        return {"text": self._text, "tokens": self._tokens, "ends": self._ends}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> TokenLog:
        log = cls()
        log._text, log._tokens = str(state["text"]), [int(token) for token in state["tokens"]]
        log._ends = [None if end is None else (int(end[0]), int(end[1])) for end in state["ends"]]
        return log
