"""The text around the needles: noise, or the user's own."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence

NOISE = (
    "The river runs to the sea.",
    "A lamp burns in the hall.",
    "The clock on the wall is slow.",
    "Leaves fall in the yard.",
    "The road goes out and comes back.",
)

# after a full stop with a space, and after those of Chinese and Japanese, which have none
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")  # noqa: RUF001
_LONGEST_SENTENCE = 400  # characters: a table or a poem is cut, so that needles find a place


class Haystack:
    """Sentences without end."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source = source
        self._sentences: list[str] = []

    @classmethod
    def of_noise(cls) -> Haystack:
        """The same few sentences again and again."""
        return cls(itertools.cycle(NOISE))

    @classmethod
    def of_text(cls, text: str, rng: random.Random) -> Haystack:
        """From a random sentence of the text on, and from its beginning again where it ends."""
        sentences = split_sentences(text)
        if not sentences:
            raise ValueError("the text for the haystack is empty; give a file with some sentences")
        start = rng.randrange(len(sentences))
        return cls(itertools.cycle(sentences[start:] + sentences[:start]))

    def take(self, n_characters: int) -> list[str]:
        """The first sentences, `n_characters` together at most; the last one may end after any of its words."""
        taken: list[str] = []
        left = n_characters
        for i in itertools.count():
            if i == len(self._sentences):
                self._sentences.append(next(self._source))
            sentence = self._sentences[i]
            if len(sentence) >= left:
                break
            taken.append(sentence)
            left -= len(sentence) + 1
        if rest := _first_words(sentence, left):
            taken.append(rest)
        return taken


def split_sentences(text: str) -> list[str]:
    """Sentences, white space made one blank; what has no end is cut after some hundred characters."""
    parts = []
    for sentence in _SENTENCE_END.split(" ".join(text.split())):
        while len(sentence) > _LONGEST_SENTENCE:
            part = _first_words(sentence, _LONGEST_SENTENCE)
            parts.append(part)
            sentence = sentence[len(part) :].lstrip()
        if sentence:
            parts.append(sentence)
    return parts


def _first_words(text: str, n_characters: int) -> str:
    """As many whole words as fit; characters, where a word has more than that."""
    if n_characters >= len(text):
        return text
    cut = text[: max(n_characters, 0)]
    end = cut.rfind(" ") if text[len(cut)] != " " else len(cut)
    return cut[:end] if end > 0 else (cut if " " not in text else "")


def depths(rng: random.Random, n: int) -> list[float]:
    """Random places from 0 to 1, ascending, one in each nth of the text."""
    return [(i + rng.random()) / n for i in range(n)]


def hide(needles: Sequence[str], at: Sequence[float], sentences: Sequence[str]) -> list[str]:
    """The sentences with each needle between two of them; `at` is ascending, 0 is the beginning and 1 the end."""
    text: list[str] = []
    before = 0
    for needle, depth in zip(needles, at, strict=True):
        here = round(depth * len(sentences))
        text += [*sentences[before:here], needle]
        before = here
    return [*text, *sentences[before:]]
