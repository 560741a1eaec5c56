"""A text is read first, and the question comes later: what a cache keeps, it keeps without knowing what will be asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import llama_cpp
import numpy as np

from ..chat.prompt import render
from ..llama import Llama
from ..recall import Fact
from ..tokens import common_prefix

_TASK = "Read this text. You will be asked about it afterwards."


@dataclass(frozen=True)
class Asked:
    """The tokens of a text, and those of each question about it."""

    text: tuple[int, ...]
    questions: tuple[tuple[int, ...], ...]

    @property
    def n_tokens(self) -> int:
        return len(self.text) + max(map(len, self.questions))


def is_chat_model(llm: Llama) -> bool:
    return "tokenizer.chat_template" in llm.metadata


def ask_about(llm: Llama, text: str, facts: Sequence[Fact], *, chat: bool) -> Asked:
    """With `chat`, in the model's chat template; else as a sentence that it has to go on."""
    if not chat:
        cues = [f"The code of {fact.person.name} is".encode() for fact in facts]
        read = llm.tokenize(f"{text}\n\n".encode())
        return Asked(tuple(read), tuple(tuple(llm.tokenize(cue, add_bos=False)) for cue in cues))
    asked = [_rendered(llm, text, f"What is the code of {fact.person.name}? Answer with the code alone.") for fact in facts]
    # what all questions have in common must be the text alone
    n = min(common_prefix(tokens, _rendered(llm, text, "#")) for tokens in asked)
    return Asked(tuple(asked[0][:n]), tuple(tuple(tokens[n:]) for tokens in asked))


def _rendered(llm: Llama, text: str, question: str) -> list[int]:
    return render(llm, [{"role": "user", "content": f"{_TASK}\n\n{text}\n\n{question}"}]).tokens


def say(llm: Llama, question: Sequence[int], n_most: int) -> str:
    """The answer, greedily: at most `n_most` tokens of its first line."""
    vocabulary = llama_cpp.llama_model_get_vocab(llm.model)
    said: list[int] = []
    unread = list(question)
    while len(said) < n_most:
        llm.eval(unread)
        logits = llm.last_logits()
        assert logits is not None
        token = int(np.argmax(logits))
        if llama_cpp.llama_vocab_is_eog(vocabulary, token):
            break
        said.append(token)
        unread = [token]
        if "\n" in _text(llm, said).lstrip():
            break
    return _text(llm, said).strip().split("\n")[0]


def contains(said: str, answer: str) -> bool:
    """Whether the answer is among the words."""
    return re.search(rf"\b{re.escape(answer)}\b", said, re.IGNORECASE) is not None


def is_exactly(said: str, answer: str) -> bool:
    """Whether the first words are the answer, and, but for punctuation, the only ones of the first sentence."""
    return re.sub(r"\W+", " ", said.split(".")[0]).strip().lower() == answer.lower()


def _text(llm: Llama, tokens: list[int]) -> str:
    return llm.detokenize(tokens).decode(errors="replace")
