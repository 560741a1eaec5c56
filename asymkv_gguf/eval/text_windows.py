"""Windows of a text, in tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..llama import Llama
from .task import Sample


@dataclass(frozen=True)
class Window(Sample):
    """`tokens` of a text, with the begin-of-text token first where the model has one."""

    tokens: tuple[int, ...]


def start_tokens(vocabulary: Llama) -> list[int]:
    """What this model wants before a text."""
    return vocabulary.tokenize(b"", add_bos=True)


def windows(vocabulary: Llama, text: str, length: int, stride: int, most: int | None = None) -> list[Window]:
    """Windows of `length` tokens that start every `stride` tokens; at most `most`, spread over the whole text.

    ValueError if the text is shorter than one of them.
    """
    bos = start_tokens(vocabulary)
    tokens = vocabulary.tokenize(text.encode(), add_bos=False)
    n = length - len(bos)
    if len(tokens) < n:
        raise ValueError(f"the text has {len(tokens):,} tokens, and a window {n:,}; give a longer text or a smaller --length")
    starts: Sequence[int] = range(0, len(tokens) - n + 1, stride)
    if most is not None and len(starts) > most:
        starts = [starts[i * len(starts) // most] for i in range(most)]
    return [Window(str(start), length, (*bos, *tokens[start : start + n])) for start in starts]


def digest(*parts: object) -> str:
    """Of what a task was made from."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).hexdigest()
