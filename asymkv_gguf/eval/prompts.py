"""A question as the model reads it: in its chat template, or as a plain text that it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..chat.prompt import render
from ..llama import Llama


def has_chat_template(llm: Llama) -> bool:
    return "tokenizer.chat_template" in llm.metadata


def prompt_tokens(llm: Llama, prompt: str, answer_prefix: str = "", *, chat: bool) -> list[int]:
    """The tokens of a prompt and of how the answer begins. What looks like a special token in a text is text."""
    if chat:
        tokens = render(llm, [{"role": "user", "content": prompt}]).tokens
        return [*tokens, *(llm.tokenize(answer_prefix.encode(), add_bos=False) if answer_prefix else [])]
    return llm.tokenize((f"{prompt}\n{answer_prefix}" if answer_prefix else prompt).encode())


def trained_context(llm: Llama) -> int:
    """The longest text that the model was trained for. ValueError if the file does not say."""
    length = llm.metadata.get(f"{llm.metadata.get('general.architecture')}.context_length", "")
    if not length.isdecimal() or int(length) < 1:
        raise ValueError(f"{llm.model_path} does not say how long its texts may be; give a length (-c)")
    return int(length)


def answer(llm: Llama, tokens: list[int], max_tokens: int, *, first_line: bool = False) -> str:
    """What the model says, greedily; with `first_line` no further than its first line that is not empty."""
    chunks: Iterator[Any] = llm.create_completion(tokens, max_tokens=max_tokens, temperature=0.0, stream=True)
    pieces = (str(chunk["choices"][0]["text"]) for chunk in chunks)
    return "".join(to_first_line(pieces) if first_line else pieces)


def to_first_line(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces of a text, up to the one in which its first line ends that is not empty."""
    text = ""
    for piece in pieces:
        yield piece
        text += piece
        if "\n" in text.lstrip("\n"):
            return
