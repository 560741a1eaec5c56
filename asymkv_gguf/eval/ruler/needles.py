"""Needles in a haystack: the part that the four niah tasks share."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .haystack import Haystack, depths, hide
from .sample import Draft, Sample
from .words import KINDS, distinct

MAX_TOKENS = 128
_SINGULAR = {"words": "word", "numbers": "number", "uuids": "code"}


@dataclass(frozen=True)
class Kinds:
    """What keys and values are: words, numbers or uuids."""

    keys: str = "words"
    values: str = "numbers"


def needle(kinds: Kinds, key: str, value: str) -> str:
    return f"One of the secret {_SINGULAR[kinds.values]}s of {key} is {value}."


def distractors(kinds: Kinds, rng: random.Random, keys: Sequence[str]) -> Iterator[str]:
    """Needles that nobody asks for."""
    draw_key, draw_value = KINDS[kinds.keys], KINDS[kinds.values]
    for _ in itertools.count():
        key = draw_key(rng)
        if key not in keys:
            yield needle(kinds, key, draw_value(rng))


def needles_draft(
    rng: random.Random, kinds: Kinds, haystack: Haystack | None, n_keys: int = 1, n_values: int = 1, n_queries: int = 1
) -> Draft:
    """`n_keys` keys with `n_values` values each are hidden, and asked for are all values of `n_queries` of them.

    Without a haystack, the needles lie between needles of other keys.
    """
    keys = distinct(KINDS[kinds.keys], rng, n_keys)
    values = distinct(KINDS[kinds.values], rng, n_keys * n_values, without=frozenset(keys))
    pairs = [(keys[i // n_values], value) for i, value in enumerate(values)]
    asked = rng.sample(keys, n_queries)
    expected = tuple(value for key in asked for k, value in pairs if k == key)
    hidden = rng.sample([needle(kinds, key, value) for key, value in pairs], len(pairs))
    at = depths(rng, len(hidden))
    around = haystack or Haystack(distractors(kinds, rng, keys))
    one, noun = len(expected) == 1, _SINGULAR[kinds.values]
    what = f"{noun if one else noun + 's'} of {_enumerated(asked)}"
    task = (
        f"A secret {noun} is hidden in the following text. Remember it: you will be asked for it."
        if one
        else f"Some secret {noun}s are hidden in the following text. Remember them: you will be asked for them."
    )
    question = f"What {'is' if one else 'are all'} the secret {what} that the text mentions?"
    prefix = f"The secret {what} that the text mentions {'is' if one else 'are'}"

    def draft(n: int) -> Sample:
        text = " ".join(hide(hidden, at, around.take(n)))
        return Sample(f"{task}\n\n{text}\n\n{question}", prefix, expected, MAX_TOKENS)

    return draft


def _enumerated(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
