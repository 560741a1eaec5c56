"""Making a sample as long as asked for, in the model's own tokens."""

from __future__ import annotations

from collections.abc import Callable

from .sample import Draft, Sample

_FIRST_STEP = 64


def fit(draft: Draft, count: Callable[[Sample], int], length: int, what: str) -> Sample:
    """The longest sample whose prompt and answer together take at most `length` tokens, found by bisection.

    `count` gives the tokens of a prompt. A draft whose text ends before `length` is reached comes whole.
    """

    def n_tokens(sample: Sample) -> int:
        return count(sample) + sample.max_tokens

    best, n_best = draft(0), 0
    least = n_tokens(best)
    if least > length:
        raise ValueError(f"{what} takes at least {least:,} tokens, more than the length of {length:,}; ask for a longer one")
    too_much = _FIRST_STEP
    while n_tokens(longer := draft(too_much)) <= length:
        if longer.prompt == best.prompt and too_much > _FIRST_STEP:
            return best  # there is no more text
        best, n_best, too_much = longer, too_much, 2 * too_much
    while too_much - n_best > 1:
        middle = (n_best + too_much) // 2
        sample = draft(middle)
        if n_tokens(sample) <= length:
            best, n_best = sample, middle
        else:
            too_much = middle
    return best
