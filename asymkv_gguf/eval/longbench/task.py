"""LongBench as an evaluation."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...llama import Llama
from ..prompts import answer, has_chat_template
from ..task import Metric, Sample
from .formats import filled
from .metrics import best, first_line
from .source import Item, Source
from .tasks import check_jieba, kind_of
from .truncate import fitted

_VERSION = 1


@dataclass(frozen=True)
class LongBenchSample(Sample):
    """An item, as the model reads it."""

    item: Item
    tokens: array[int]  # an eighth of a list's memory
    max_tokens: int


class LongBench:
    """Mean score over all samples, and by task; LongBench's own metrics."""

    name = "longbench"

    def __init__(
        self,
        vocabulary: Llama,
        source: Source,
        tasks: Sequence[str],
        prompts: Mapping[str, str],
        max_lengths: Mapping[str, int],
        *,
        n_ctx: int,
        n_samples: int | None = None,
    ) -> None:
        """The first `n_samples` of each task (None: all), none longer than `n_ctx` with its answer."""
        self._tasks = list(dict.fromkeys(tasks))
        check_jieba(self._tasks)
        has_template = has_chat_template(vocabulary)
        self._samples: list[LongBenchSample] = []
        self.truncated: dict[str, int] = {}  # samples of a task that lost their middle
        for task in self._tasks:
            chat = has_template and kind_of(task).chat
            room = n_ctx - max_lengths[task]
            for item in source.items(task)[:n_samples]:
                tokens, is_cut = fitted(vocabulary, filled(prompts[task], item), room, chat=chat)
                if is_cut:
                    self.truncated[task] = self.truncated.get(task, 0) + 1
                n_tokens = len(tokens) + max_lengths[task]
                sample_id = f"{task}/{item.id}/{_digest(tokens, max_lengths[task], item.answers, item.classes)}"
                self._samples.append(LongBenchSample(sample_id, n_tokens, item, array("i", tokens), max_lengths[task]))

    @property
    def fingerprint(self) -> str:
        """The samples' names tell their prompts and answers."""
        return str(_VERSION)

    @property
    def metrics(self) -> Sequence[Metric]:
        parts = [Metric(name, name, more_is_better=True, is_share=True) for name in self._tasks]
        return [Metric("score", "score", more_is_better=True, is_share=True), *(parts if len(parts) > 1 else [])]

    def samples(self) -> Sequence[LongBenchSample]:
        return self._samples

    def n_samples(self, task: str) -> int:
        return sum(sample.item.task == task for sample in self._samples)

    def measure(self, llm: Llama, sample: LongBenchSample) -> Mapping[str, float]:
        """The score, and the same under the task's name."""
        kind, item = kind_of(sample.item.task), sample.item
        said = answer(llm, list(sample.tokens), sample.max_tokens, first_line=kind.first_line)
        value = best(kind.metric, first_line(said) if kind.first_line else said, item.answers, item.classes)
        return {"score": value, item.task: value}


def _digest(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=4).hexdigest()
