"""Snapshots of a context, so that going back to an earlier token need not read everything again.

A merged cache can take back its recent tokens, and not part of a merged slot. A checkpoint is the whole state at one token
count; going back restores the nearest one before the cut, and only what lies between is read again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .state import Bytes
from .tokens import Tokens

MAX_CHECKPOINTS = 4
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Checkpoint:
    """What a context held after reading `tokens`."""

    tokens: Tokens
    state: Bytes
    logits: npt.NDArray[np.single] | None  # of the last token; None: they were not known

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def n_bytes(self) -> int:
        return self.tokens.nbytes + self.state.nbytes + (0 if self.logits is None else self.logits.nbytes)

    def begins(self, tokens: Tokens) -> bool:
        """Whether `tokens` begin with this checkpoint's."""
        return self.n_tokens <= len(tokens) and np.array_equal(self.tokens, tokens[: self.n_tokens])


class Checkpoints:
    """A bounded number of checkpoints, dense near the end of the text and sparse towards its start."""

    def __init__(self) -> None:
        self._kept: list[Checkpoint] = []  # oldest first

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def n_bytes(self) -> int:
        return sum(checkpoint.n_bytes for checkpoint in self._kept)

    def token_counts(self) -> list[int]:
        return sorted(checkpoint.n_tokens for checkpoint in self._kept)

    def clear(self) -> None:
        self._kept.clear()

    def remove(self, checkpoint: Checkpoint) -> None:
        self._kept = [other for other in self._kept if other is not checkpoint]

    def make_room(self, tokens: Tokens, n_bytes: int, max_checkpoints: int, max_bytes: int) -> bool:
        """Drops the least useful until a checkpoint of `n_bytes` fits. False, and nothing dropped: it never would."""
        if max_checkpoints < 1 or n_bytes > max_bytes:
            return False
        # the same text again: the new one replaces it
        self._kept = [kept for kept in self._kept if not np.array_equal(kept.tokens, tokens)]
        while len(self._kept) >= max_checkpoints or self.n_bytes + n_bytes > max_bytes:
            self.remove(self._least_useful(tokens))
        return True

    def add(self, checkpoint: Checkpoint) -> None:
        self._kept.append(checkpoint)

    def nearest(self, tokens: Tokens) -> Checkpoint | None:
        """The longest one that `tokens` begin with, and after which there is something to read or to sample from."""
        fitting = [
            checkpoint
            for checkpoint in self._kept
            if checkpoint.begins(tokens) and (checkpoint.n_tokens < len(tokens) or checkpoint.logits is not None)
        ]
        return max(fitting, key=lambda checkpoint: checkpoint.n_tokens, default=None)

    def _least_useful(self, tokens: Tokens) -> Checkpoint:
        """The oldest one of another text; else the one without which the fewest tokens are read again.

        A cut between checkpoint i and the next one costs p_i - p_(i-1) tokens more without i. Cuts are the likelier the
        nearer they are to the end n of the text: as 1 / (n - x).
        """
        for checkpoint in self._kept:
            if not checkpoint.begins(tokens):
                return checkpoint
        line = sorted(self._kept, key=lambda checkpoint: checkpoint.n_tokens)
        n = len(tokens)
        places = [0, *(checkpoint.n_tokens for checkpoint in line), n]

        def use(i: int) -> float:
            before, here, after = places[i : i + 3]
            return (here - before) * math.log((n - here + 1) / (n - after + 1))

        return line[min(range(len(line)), key=use)]
