"""Coded words whose frequencies fall as a power law: which three are the most frequent?"""

from __future__ import annotations

import math
import random
import string

from .options import RulerOptions
from .sample import Draft, Sample
from .words import distinct, letters

NOISE = "..."  # takes the place of the most frequent word
N_ASKED = 3
MAX_TOKENS = 50
_WORD_LENGTH = 6
_LEAST = 100  # words: below, the third one is hardly more frequent than the fourth


def frequent_words(options: RulerOptions, rng: random.Random, index: int) -> Draft:
    seed, alpha = rng.getrandbits(64), options.alpha
    scale = 1 / zeta(alpha)

    def draft(n: int) -> Sample:
        rng = random.Random(seed)
        counts: list[int] = []
        while (count := int((n + _LEAST) * scale * (len(counts) + 1) ** -alpha)) > 0:
            counts.append(count)
        words = [NOISE, *distinct(lambda r: letters(r, string.ascii_lowercase, _WORD_LENGTH), rng, len(counts) - 1)]
        text = [w for w, count in zip(words, counts, strict=True) for _ in range(count)]
        rng.shuffle(text)
        return Sample(
            "Read the following coded text, and note how often each coded word occurs.\n\n"
            f"{' '.join(text)}\n\n"
            f"Question: Which three coded words occur most often? The dots '{NOISE}' are no word. Do not explain.",
            "Answer: The three coded words that occur most often are:",
            tuple(words[1 : 1 + N_ASKED]),
            MAX_TOKENS,
        )

    return draft


def zeta(alpha: float) -> float:
    """Riemann's zeta function for alpha > 1: a sum, and the rest of it as an integral (Euler-Maclaurin)."""
    n = 1000
    rest: float = n ** (1 - alpha) / (alpha - 1) - 0.5 * n**-alpha + alpha * n ** (-alpha - 1) / 12
    return math.fsum(k**-alpha for k in range(1, n + 1)) + rest
