"""What an evaluation is: samples, and numbers that one cache gets on one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..llama import Llama


@dataclass(frozen=True)
class Sample:
    """One text. Tasks add what they need to know of it."""

    id: str  # the same in every run
    n_tokens: int  # of all that is in the cache at most: the text, the question, the answer


@dataclass(frozen=True)
class Metric:
    """A number that a task measures."""

    name: str  # in JSON and CSV
    title: str  # for people
    more_is_better: bool
    is_share: bool = False  # shown in per cent


S = TypeVar("S", bound=Sample)


class Task(Protocol[S]):
    """An evaluation. The cache is empty when `measure` is called, and the same for all samples of a column."""

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> Sequence[Metric]:
        """The first one is what is plotted."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same sample could get other numbers: results are kept under it."""
        ...

    def samples(self) -> Sequence[S]: ...

    def measure(self, llm: Llama, sample: S) -> Mapping[str, float]:
        """A number for each metric, or for those that this sample has."""
        ...


@runtime_checkable
class NeedsFullCache(Protocol):
    """A task that compares with what the full cache says."""

    def has_reference(self, sample: Any, settings: str) -> bool:
        """Asked before anything is measured: whether `read_reference` was called for it, with this model and cache."""
        ...

    def read_reference(self, llm: Llama, sample: Any, settings: str) -> None:
        """Called with the full cache, before any column is measured."""
        ...
