"""A list of words, ten of which occur more often than the others."""

from __future__ import annotations

import random

from .options import RulerOptions
from .sample import Draft, Sample
from .words import distinct, word

N_COMMON = 10
MAX_TOKENS = 120
# how often a common and an uncommon word occurs, as in the paper; in texts that are too short for that, and in the example
_LONG, _SHORT, _EXAMPLE = (30, 3), (6, 1), (4, 1)
_MOST_WORDS = 40_000  # of the list
_EXAMPLE_WORDS = 10  # uncommon ones


def common_words(options: RulerOptions, rng: random.Random, index: int) -> Draft:
    repeats = _LONG if options.long_word_lists else _SHORT
    example_seed, seed = rng.getrandbits(64), rng.getrandbits(64)
    example = _sample(example_seed, _EXAMPLE, _EXAMPLE_WORDS)
    solved = f"{example.prompt}\n{example.answer_prefix} {_numbered(list(example.expected))}"

    def draft(n: int) -> Sample:
        sample = _sample(seed, repeats, min(n, _MOST_WORDS))
        return Sample(f"{solved}\n\n{sample.prompt}", sample.answer_prefix, sample.expected, sample.max_tokens)

    return draft


def _sample(seed: int, repeats: tuple[int, int], n_uncommon: int) -> Sample:
    """`n_uncommon` entries of uncommon words: the last of them may occur less often than the others."""
    rng = random.Random(seed)
    often, rarely = repeats
    words = distinct(word, rng, N_COMMON + -(-n_uncommon // rarely))
    common, uncommon = words[:N_COMMON], words[N_COMMON:]
    entries = [w for w in common for _ in range(often)] + [w for w in uncommon for _ in range(rarely)][:n_uncommon]
    random.Random(seed).shuffle(entries)
    return Sample(
        "Here is a numbered list of words, some of which occur more often than the others. Remember those.\n\n"
        f"{_numbered(entries)}\n\nQuestion: Which {N_COMMON} words occur most often in the list?",
        f"Answer: The {N_COMMON} words that occur most often in the list are:",
        tuple(common),
        MAX_TOKENS,
    )


def _numbered(words: list[str]) -> str:
    return " ".join(f"{i}. {w}" for i, w in enumerate(words, 1))
