"""How far a cache's next-token distributions are from the full cache's on the same text: no labels are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ..llama import Llama
from .full_log_probs import FullLogProbs, Rows, rounded
from .logits import read_log_probs
from .task import Metric, Sample
from .text_windows import Window, digest, windows

_VERSION: Final = 1


class Drift:
    """After a window's first tokens are read, KL(full || column) in nats and top-1 agreement over its last `scored` ones.

    The full cache's distributions are computed once for each window, and kept as float16 log-probabilities in `work`.
    """

    name = "drift"
    metrics: Sequence[Metric] = (
        Metric("kl", "KL to the full cache", more_is_better=False),
        Metric("agreement", "same top token", more_is_better=True, is_share=True),
    )

    def __init__(
        self,
        vocabulary: Llama,
        text: str,
        *,
        length: int,
        scored: int,
        stride: int | None = None,
        most: int | None = None,
        work: Path | None = None,
    ) -> None:
        if not 1 <= scored < length:
            raise ValueError(f"of a window of {length} tokens, {scored} cannot be scored; lower --scored or raise --length")
        self._scored = scored
        self._windows = windows(vocabulary, text, length, stride or length, most)
        self._full = FullLogProbs(work)
        self._settings = ""
        self.fingerprint = digest(_VERSION, text, length, scored)

    def samples(self) -> Sequence[Window]:
        return self._windows

    def has_reference(self, sample: Sample, settings: str) -> bool:
        self._settings = settings
        return self._name(sample) in self._full

    def read_reference(self, llm: Llama, sample: Window, settings: str) -> None:
        self._settings = settings
        shape = (self._scored, llm.n_vocab())
        self._full.add(self._name(sample), (rows for _, rows in self._read(llm, sample)), shape)

    def measure(self, llm: Llama, sample: Window) -> Mapping[str, float]:
        full = self._full.get(self._name(sample))
        kl, n_same = 0.0, 0
        for first, rows in self._read(llm, sample):
            theirs, ours = rounded(np.asarray(full[first : first + len(rows)], np.float64)), rounded(rows)
            kl += float((np.exp(theirs) * (theirs - ours)).sum())
            n_same += int((theirs.argmax(axis=-1) == ours.argmax(axis=-1)).sum())
        return {"kl": kl / self._scored, "agreement": n_same / self._scored}

    def _read(self, llm: Llama, sample: Window) -> Iterator[tuple[int, Rows]]:
        """Log-probabilities after each of the scored tokens."""
        llm.eval(sample.tokens[: -self._scored])
        return read_log_probs(llm, sample.tokens[-self._scored :])

    def _name(self, sample: Sample) -> str:
        return digest(self.fingerprint, self._settings, sample.id)
