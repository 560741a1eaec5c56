"""Which facts of a text can still be told after all of it was read."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .. import recall
from ..llama import Llama
from .asking import Asked, ask_about, contains, is_chat_model, say
from .haystack import Haystack
from .logits import answer_log_prob
from .task import Metric, Sample
from .text_windows import digest

_VERSION: Final = 1
_N_SAID: Final = 24  # tokens that a chat model has for its answer
_FREE: Final = 48  # tokens for a question and its answer, of the packaged model's language
_RECALL: Final = Metric("recall", "recall", more_is_better=True, is_share=True)


@dataclass(frozen=True)
class Told(Sample):
    """A text with facts, and what is asked about it."""

    asked: Asked
    answers: tuple[str, ...]
    answer_tokens: tuple[tuple[int, ...], ...]


class RecallInOwnLanguage:
    """Documents of the packaged model's language: facts in the first quarter, which nothing mentions again.

    Any model can go on with `The code of Anna Reed is`; right is what it finds most likely, token by token.
    """

    name = "recall"
    metrics: Sequence[Metric] = (_RECALL, Metric("log_prob", "log-prob of the answer", more_is_better=True))

    def __init__(self, vocabulary: Llama, *, length: int, n_facts: int = 10, n_documents: int = 8) -> None:
        self._samples = [self._make(vocabulary, seed, length, n_facts) for seed in range(n_documents)]
        self.fingerprint = digest(_VERSION, length, n_facts)

    def _make(self, vocabulary: Llama, seed: int, length: int, n_facts: int) -> Told:
        n_words, most = length - _FREE, length - _FREE
        while True:  # other vocabularies need more tokens for the same words
            document = recall.make_document(seed, tokens=n_words, facts=n_facts)
            text = tuple(vocabulary.tokenize(document.text.encode()))
            if len(text) <= most:
                break
            n_words = min(n_words - 8, n_words * most // len(text))
        answers = tuple(question.answer for question in document.questions)
        asked = [tuple(vocabulary.tokenize(question.prompt.encode(), add_bos=False)) for question in document.questions]
        spelled = tuple(tuple(vocabulary.tokenize(f" {answer}".encode(), add_bos=False)) for answer in answers)
        return Told(str(seed), length, Asked(text, tuple(asked)), answers, spelled)

    def samples(self) -> Sequence[Told]:
        return self._samples

    def measure(self, llm: Llama, sample: Told) -> Mapping[str, float]:
        llm.eval(sample.asked.text)
        state = llm.save_state()
        log_probs, n_right = 0.0, 0
        for question, answer in zip(sample.asked.questions, sample.answer_tokens, strict=True):
            llm.load_state(state)
            log_prob, right = answer_log_prob(llm, question, answer)
            log_probs += log_prob
            n_right += right
        n = len(sample.answers)
        return {"recall": n_right / n, "log_prob": log_probs / n}


class RecallInPlainEnglish:
    """Facts spread over a text, asked for in the chat template, if there is one; right is an answer with the word in it."""

    name = "recall-plain"
    metrics: Sequence[Metric] = (_RECALL,)

    def __init__(
        self,
        vocabulary: Llama,
        *,
        length: int,
        n_facts: int = 10,
        n_documents: int = 8,
        text: str | None = None,
        chat: bool | None = None,
    ) -> None:
        hay, chat = Haystack(vocabulary, text), is_chat_model(vocabulary) if chat is None else chat
        self._samples = [_plain(vocabulary, hay, seed, length, n_facts, chat) for seed in range(n_documents)]
        self.fingerprint = digest(_VERSION, length, n_facts, text, chat)

    def samples(self) -> Sequence[Told]:
        return self._samples

    def measure(self, llm: Llama, sample: Told) -> Mapping[str, float]:
        llm.eval(sample.asked.text)
        state = llm.save_state()
        n_right = 0
        for question, answer in zip(sample.asked.questions, sample.answers, strict=True):
            llm.load_state(state)
            n_right += contains(say(llm, question, _N_SAID), answer)
        return {"recall": n_right / len(sample.answers)}


def _plain(vocabulary: Llama, hay: Haystack, seed: int, length: int, n_facts: int, chat: bool) -> Told:
    rng = random.Random(seed)
    facts = recall.make_facts(rng, n_facts)
    empty = ask_about(vocabulary, "", facts, chat=chat)
    depths = [(index + rng.random()) / n_facts for index in range(n_facts)]
    statements = [(depth, fact.statement) for depth, fact in zip(depths, facts, strict=True)]
    text = hay.text(length - empty.n_tokens - _N_SAID - 8, statements, first=37 * seed)
    asked = ask_about(vocabulary, text, facts, chat=chat)
    return Told(str(seed), length, asked, tuple(fact.code for fact in facts), ())
