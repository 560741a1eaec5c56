"""RULER as an evaluation: every task type at every length."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...llama import Llama
from ..prompts import answer, has_chat_template, prompt_tokens
from ..task import Metric, Sample
from . import sample as ruler
from .generate import TYPES, generate
from .options import RulerOptions
from .score import score

_VERSION = 1


@dataclass(frozen=True)
class RulerSample(Sample):
    """A question, as the model reads it."""

    type: str
    question: ruler.Sample
    tokens: array[int]  # an eighth of a list's memory


class Ruler:
    """Share of the expected strings that occur in the answers, over all samples, and by task type."""

    name = "ruler"

    def __init__(
        self,
        vocabulary: Llama,
        types: Sequence[str],
        lengths: Sequence[int],
        n_samples: int,
        options: RulerOptions,
        *,
        seed: int = 0,
        chat: bool | None = None,
    ) -> None:
        """`chat` says whether prompts come in the model's chat template; None: if it has one."""
        for name in types:
            if name not in TYPES:
                raise ValueError(f"RULER has no task {name!r}; there are {', '.join(TYPES)}")
        if "qa" in types and not options.questions:
            raise ValueError("the task qa needs questions; give --questions FILE, and the documents with -f or in it")
        self._types = list(dict.fromkeys(types))
        self.chat = has_chat_template(vocabulary) if chat is None else chat

        def spell(question: ruler.Sample) -> list[int]:
            return prompt_tokens(vocabulary, question.prompt, question.answer_prefix, chat=self.chat)

        self._samples = []
        for name in self._types:
            n = min(n_samples, len(options.questions)) if name == "qa" else n_samples
            for length in lengths:
                for i in range(n):
                    question = generate(name, options, lambda one: len(spell(one)), length, seed, i)
                    tokens = array("i", spell(question))
                    n_tokens = len(tokens) + question.max_tokens
                    self._samples.append(RulerSample(f"{name}/{length}/{i}", n_tokens, name, question, tokens))
        # which samples are asked for does not change what one of them gets
        parts = [_VERSION, seed, self.chat, dataclasses.asdict(options)]
        self.fingerprint = hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    @property
    def metrics(self) -> Sequence[Metric]:
        parts = [Metric(name, name, more_is_better=True, is_share=True) for name in self._types]
        return [Metric("score", "score", more_is_better=True, is_share=True), *(parts if len(parts) > 1 else [])]

    def samples(self) -> Sequence[RulerSample]:
        return self._samples

    def measure(self, llm: Llama, sample: RulerSample) -> Mapping[str, float]:
        """The score, and the same under the task type's name."""
        value = score(sample.question, answer(llm, list(sample.tokens), sample.question.max_tokens))
        return {"score": value, sample.type: value}
