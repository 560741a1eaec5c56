"""Chains of assignments hidden in a haystack: which variables have the value that the first one was given?"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from itertools import pairwise

from .haystack import Haystack, depths, hide
from .options import RulerOptions
from .sample import Draft, Sample
from .words import distinct, letters

_EXAMPLE_FILLER = 100  # characters


def variable_tracking(options: RulerOptions, rng: random.Random, index: int) -> Draft:
    """An example with its answer comes first, as in the paper."""
    example = _draft(rng, Haystack.of_noise(), 1, options.hops, 3)(_EXAMPLE_FILLER)
    solved = f"{example.prompt}\n{example.answer_prefix} {', '.join(example.expected)}"
    draft = _draft(rng, options.haystack(rng), options.chains, options.hops, 5)

    def with_example(n: int) -> Sample:
        sample = draft(n)
        return Sample(f"{solved}\n\n{sample.prompt}", sample.answer_prefix, sample.expected, sample.max_tokens)

    return with_example


def _draft(rng: random.Random, haystack: Haystack, n_chains: int, n_hops: int, name_length: int) -> Draft:
    n_variables = n_hops + 1
    names = distinct(lambda r: letters(r, string.ascii_uppercase, name_length), rng, n_chains * n_variables)
    chains = [names[i : i + n_variables] for i in range(0, len(names), n_variables)]
    values = distinct(lambda r: str(r.randrange(10_000, 100_000)), rng, n_chains)
    # each chain in its own order, spread over the whole text, and the chains among each other
    placed = sorted(
        (depth, statement)
        for chain, value in zip(chains, values, strict=True)
        for depth, statement in zip(depths(rng, n_variables), _statements(chain, value), strict=True)
    )
    asked, value = chains[0], values[0]
    max_tokens = 30 + 8 * max(0, n_variables - 5)  # the paper's 30 are for four hops

    def draft(n: int) -> Sample:
        text = " ".join(hide([statement for _, statement in placed], [depth for depth, _ in placed], haystack.take(n)))
        return Sample(
            f"Follow the variables that are assigned in the following text.\n\n{text}\n\n"
            f"Question: Which variables have the value {value}?",
            f"Answer: Following the assignments, {n_variables} variables have the value {value}:",
            tuple(asked),
            max_tokens,
        )

    return draft


def _statements(names: Sequence[str], value: str) -> list[str]:
    rest = [f"VAR {name} = VAR {before}." for before, name in pairwise(names)]
    return [f"VAR {names[0]} = {value}.", *rest]
