"""How well the next token is expected while a text is read, by its position in the window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..llama import Llama
from .logits import losses
from .task import Metric
from .text_windows import Window, digest, windows

_VERSION = 1


class Perplexity:
    """Mean negative log-likelihood (nats per token) of windows of a text, and of each of `n_buckets` parts of them."""

    name = "ppl"

    def __init__(
        self,
        vocabulary: Llama,
        text: str,
        *,
        length: int,
        stride: int | None = None,
        n_buckets: int = 4,
        most: int | None = None,
    ) -> None:
        if length < 2:
            raise ValueError(f"a window needs 2 tokens or more, not {length}")
        if not 1 <= n_buckets < length:
            raise ValueError(f"a window of {length} tokens has no {n_buckets} parts; lower --buckets or raise --length")
        self._windows = windows(vocabulary, text, length, stride or length, most)
        self._edges = [1 + i * (length - 1) // n_buckets for i in range(n_buckets + 1)]  # the first token is not expected
        # which windows were asked for does not change what one of them gets
        self.fingerprint = digest(_VERSION, text, length, n_buckets)

    @property
    def metrics(self) -> Sequence[Metric]:
        parts = [Metric(name, f"NLL, tokens {name[4:]}", more_is_better=False) for name in self._buckets]
        return [Metric("nll", "NLL", more_is_better=False), *(parts if len(parts) > 1 else [])]

    @property
    def _buckets(self) -> list[str]:
        return [f"nll_{first}-{end - 1}" for first, end in zip(self._edges, self._edges[1:], strict=False)]

    def samples(self) -> Sequence[Window]:
        return self._windows

    def measure(self, llm: Llama, sample: Window) -> Mapping[str, float]:
        found = losses(llm, sample.tokens)
        parts = zip(self._buckets, self._edges, self._edges[1:], strict=False)
        means = {name: float(found[first - 1 : end - 1].mean()) for name, first, end in parts}
        return {"nll": float(found.mean()), **means}
