"""What a model expects next, from logits that are read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..llama import Llama

_ROWS: Final = 16  # converted at a time: vocabularies have up to 256 thousand tokens


def log_probs(logits: npt.NDArray[np.single]) -> npt.NDArray[np.float64]:
    """Log-softmax of each row."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def read_log_probs(llm: Llama, tokens: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Reads tokens, and yields the index of a token and the log-probabilities after it and some that follow, [n, n_vocab]."""
    first = 0
    for logits in llm.eval_with_logits(tokens):
        for start in range(0, len(logits), _ROWS):
            yield first + start, log_probs(logits[start : start + _ROWS])
        first += len(logits)


def losses(llm: Llama, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    """Negative log-likelihoods of tokens[1:], in nats, each given all before it. The last token is not read."""
    targets: npt.NDArray[Any] = np.asarray(tokens[1:])
    found = np.empty(len(targets))
    for first, rows in read_log_probs(llm, tokens[:-1]):
        wanted = targets[first : first + len(rows)]
        found[first : first + len(rows)] = -rows[np.arange(len(rows)), wanted]
    return found


def answer_log_prob(llm: Llama, prompt: Sequence[int], answer: Sequence[int]) -> tuple[float, bool]:
    """Reads a prompt and its answer: the answer's log-probability, and whether it is what the model would say first."""
    llm.eval(prompt)
    last = llm.last_logits()
    assert last is not None
    rows = [log_probs(last[None])]
    rows += [batch for _, batch in read_log_probs(llm, answer[:-1])] if len(answer) > 1 else []
    found = np.concatenate(rows)
    told = found[np.arange(len(answer)), np.asarray(answer)]
    return float(told.sum()), bool((found.argmax(axis=-1) == np.asarray(answer)).all())
