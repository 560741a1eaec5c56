"""A prompt that is not copied for each token of its answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any


class PromptTokens(list[int]):
    """A list of tokens. `prompt + answer` is a view of both, and not a third list.

    llama_cpp makes that sum two times and more for each token that it streams, to tell the tokenizer what came before; at
    100,000 tokens this takes a millisecond, and CachedTokenizer does not look.
    """

    def __add__(self, other: Iterable[Any]) -> Any:
        if isinstance(other, list) and not other:
            return self
        return Joined(self, list(other))

    def __radd__(self, other: list[int]) -> PromptTokens:
        return PromptTokens([*other, *self]) if other else self


class Joined(Sequence[int]):
    """Two lists, one after the other."""

    def __init__(self, first: list[int], second: list[int]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __iter__(self) -> Iterator[int]:
        yield from self.first
        yield from self.second

    def __getitem__(self, index: Any) -> Any:
        return [*self][index] if isinstance(index, slice) else self._at(range(len(self))[index])

    def _at(self, index: int) -> int:
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]
