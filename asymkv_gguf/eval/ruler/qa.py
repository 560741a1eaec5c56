"""Questions about given documents, between other documents."""

from __future__ import annotations

import random

from .options import RulerOptions
from .sample import Draft, Sample

MAX_TOKENS = 32


def qa(options: RulerOptions, rng: random.Random, index: int) -> Draft:
    """Question `index`. Its document is there as a whole; others fill the text, the last of them cut."""
    question = options.questions[index]
    known = dict.fromkeys([*(q.document for q in options.questions), *options.documents])
    others = [document for document in known if document != question.document]
    rng.shuffle(others)
    place = rng.random()
    task = "Answer the question from the documents below. Give the answer alone, without other words."

    def draft(n: int) -> Sample:
        texts, left = [], n
        for document in others:
            if left <= 0:
                break
            texts.append(_first_words(document.text, left))
            left -= len(document.text) + 1
        texts.insert(round(place * len(texts)), question.document.text)
        numbered = "\n\n".join(f"Document {i}:\n{text}" for i, text in enumerate(texts, 1))
        return Sample(
            f"{task}\n\n{numbered}\n\n{task}\n\nQuestion: {question.text}", "Answer:", question.answers, MAX_TOKENS, "part"
        )

    return draft


def _first_words(text: str, n_characters: int) -> str:
    if n_characters >= len(text):
        return text
    return text[: max(text.rfind(" ", 0, n_characters + 1), 1)]
