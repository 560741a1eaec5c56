"""What one question of RULER is, and how long it may be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Sample:
    """A prompt, how the answer begins, and the strings that should occur in it."""

    prompt: str
    answer_prefix: str  # the answer's first words, which the model is given
    expected: tuple[str, ...]
    max_tokens: int  # of the answer
    match: Literal["all", "part"] = "all"  # the share of `expected` that occurs, or whether any does


# a sample with that much filler (characters, or words of a list; 0: none); the same numbers give the same sample
Draft = Callable[[int], Sample]
