"""Whether one fact is found in a text, by the text's length and the fact's depth in it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .. import recall
from ..llama import Llama
from .asking import Asked, ask_about, contains, is_chat_model, is_exactly, say
from .haystack import Haystack
from .task import Metric, Sample
from .text_windows import digest

_VERSION: Final = 1
_N_SAID: Final = 24


@dataclass(frozen=True)
class Hidden(Sample):
    """A text with one needle that is asked for; `n_tokens` is the length of its place in the grid."""

    depth: float
    asked: Asked
    answer: str


class Needle:
    """A grid of lengths (tokens) x depths (0: first, 1: last), `n_repeats` texts each.

    With `n_keys` above 1, other needles with other names and codes stand at random depths.
    """

    name = "needle"
    metrics: Sequence[Metric] = (
        Metric("found", "found", more_is_better=True, is_share=True),
        Metric("exact", "nothing else said", more_is_better=True, is_share=True),
    )

    def __init__(
        self,
        vocabulary: Llama,
        *,
        lengths: Sequence[int],
        depths: Sequence[float],
        n_keys: int = 1,
        n_repeats: int = 1,
        text: str | None = None,
        chat: bool | None = None,
    ) -> None:
        self.lengths, self.depths = tuple(lengths), tuple(depths)
        hay, chat = Haystack(vocabulary, text), is_chat_model(vocabulary) if chat is None else chat
        self._samples = [
            _hidden(vocabulary, hay, length, depth, repeat, n_keys, chat)
            for length in lengths
            for depth in depths
            for repeat in range(n_repeats)
        ]
        # a place in the grid does not depend on the others
        self.fingerprint = digest(_VERSION, n_keys, text, chat)

    def samples(self) -> Sequence[Hidden]:
        return self._samples

    def measure(self, llm: Llama, sample: Hidden) -> Mapping[str, float]:
        llm.eval(sample.asked.text)
        said = say(llm, sample.asked.questions[0], _N_SAID)
        return {"found": contains(said, sample.answer), "exact": is_exactly(said, sample.answer)}

    def grid(self, values: Mapping[str, float]) -> list[list[float]]:
        """Means of a value by sample id: a row for each depth, a column for each length."""
        rows = []
        for depth in self.depths:
            same = [[s for s in self._samples if (s.depth, s.n_tokens) == (depth, length)] for length in self.lengths]
            rows.append([sum(values[sample.id] for sample in place) / len(place) for place in same])
        return rows


def _hidden(vocabulary: Llama, hay: Haystack, length: int, depth: float, repeat: int, n_keys: int, chat: bool) -> Hidden:
    name = f"{length}-{depth:g}-{repeat}"
    rng = random.Random(name)
    facts = recall.make_facts(rng, n_keys)
    depths = [depth, *(rng.random() for _ in facts[1:])]
    statements = [(at, fact.statement) for at, fact in zip(depths, facts, strict=True)]
    empty = ask_about(vocabulary, "", facts[:1], chat=chat)
    try:
        text = hay.text(length - empty.n_tokens - _N_SAID - 8, statements, first=rng.randrange(10_000))
    except ValueError as error:
        raise ValueError(f"length {length}: {error}") from error
    asked = ask_about(vocabulary, text, facts[:1], chat=chat)
    return Hidden(name, length, depth, asked, facts[0].code)
