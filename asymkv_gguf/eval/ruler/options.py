"""What the task types can be told."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from .haystack import Haystack
from .needles import Kinds
from .questions import Document, Question

HAYSTACKS = ("noise", "text", "needles")


@dataclass(frozen=True)
class RulerOptions:
    """`text` is the haystack (without one: noise), the rest is named as in the paper."""

    text: str | None = None
    needle_haystack: bool = False  # niah_multikey: needles of other keys are the haystack
    kinds: Kinds = field(default_factory=Kinds)
    needles: int = 4  # keys, values or queries of the niah tasks with several
    chains: int = 1
    hops: int = 4
    long_word_lists: bool = True  # common_words: repetitions for long texts
    alpha: float = 2.0  # of frequent_words: how fast frequencies fall
    documents: Sequence[Document] = ()
    questions: Sequence[Question] = ()

    def __post_init__(self) -> None:
        for name, least in (("needles", 2), ("chains", 1), ("hops", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if self.alpha <= 1:
            raise ValueError(f"alpha must be more than 1, not {self.alpha:g}")

    def haystack(self, rng: random.Random) -> Haystack:
        return Haystack.of_noise() if self.text is None else Haystack.of_text(self.text, rng)
