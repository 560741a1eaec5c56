"""Texts that hold facts at chosen depths."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence

from .. import recall
from ..llama import Llama

# of sentences, with a quotation's end; Chinese and Japanese have no blank between them
_END: re.Pattern[str] = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"')\]])\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n")
_MOST_WORDS = 60  # of what has no sentences, this many words are taken for one


class Haystack:
    """Sentences of a text, or of English small talk without any facts, counted in a model's tokens."""

    def __init__(self, vocabulary: Llama, text: str | None = None, seed: int = 0) -> None:
        self._vocabulary = vocabulary
        self._sentences = _sentences(text) if text is not None else _small_talk(seed)
        if not self._sentences:
            raise ValueError("the text for the haystack is empty; give another file")
        self._lengths = [self.n_tokens(f" {sentence}") for sentence in self._sentences]

    def n_tokens(self, text: str) -> int:
        return len(self._vocabulary.tokenize(text.encode(), add_bos=False))

    def text(self, n_tokens: int, facts: Sequence[tuple[float, str]], first: int = 0) -> str:
        """At most `n_tokens`, from sentence number `first` on, over and over; each fact stands at its depth, 0 to 1."""
        room = n_tokens - sum(self.n_tokens(f" {fact}") for _, fact in facts)
        if room < 0:
            raise ValueError(f"{len(facts)} facts do not fit into {n_tokens:,} tokens; take longer texts or fewer facts")
        hay: list[str] = []
        for index in itertools.count(first):
            length = self._lengths[index % len(self._lengths)]
            if length > room:
                break
            room -= length
            hay.append(self._sentences[index % len(self._sentences)])
        while True:
            joined = " ".join(_with_facts(hay, facts))
            if not hay or self.n_tokens(joined) <= n_tokens:
                return joined
            hay.pop()


def _with_facts(hay: Sequence[str], facts: Sequence[tuple[float, str]]) -> Iterator[str]:
    at: dict[int, list[str]] = {}
    for depth, fact in sorted(facts):
        at.setdefault(round(depth * len(hay)), []).append(fact)
    for index in range(len(hay) + 1):
        yield from at.get(index, ())
        yield from hay[index : index + 1]


def _sentences(text: str) -> list[str]:
    found: list[str] = []
    for sentence in _END.split(text):
        words = sentence.split()
        found += [" ".join(words[i : i + _MOST_WORDS]) for i in range(0, len(words), _MOST_WORDS)]
    return found


def _small_talk(seed: int, n: int = 2000) -> list[str]:
    """What the packaged model's documents are filled with: English that any model reads, without a name in it."""
    rng = random.Random(seed)
    return [recall.filler_sentence(rng) for _ in range(n)]
