"""A Llama that tells what it does while it answers, and stops when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import llama_cpp
import numpy as np

from ..checkpoints import Checkpoint
from ..llama import Llama


class Stopped(Exception):  # noqa: N818  (nothing went wrong)
    """The answer is not wanted any more."""


@dataclass(frozen=True)
class TokenLogprob:
    """One token of the answer, and the most likely ones in its place."""

    piece: bytes
    logprob: float
    top: list[tuple[bytes, float]]


@dataclass(eq=False)
class Watch:
    """One answer: what was read and written, and when. Filled in by the slot's thread."""

    n_top: int | None = None  # alternatives for each token; None: no logprobs
    on_batch: Callable[[Watch], None] | None = None
    on_step: Callable[[], None] | None = None
    n_prompt: int = 0
    n_read: int = 0  # tokens of the prompt that were computed; the others were in the cache
    n_done: int = 0  # tokens of the prompt that are in the cache now
    n_predicted: int = 0
    n_reread: int = 0  # of those read, what had been read before, but could not be kept
    logprobs: list[TokenLogprob] = field(default_factory=list)
    started: float = 0.0
    first: float = 0.0  # when the first token was there
    ended: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    reading: bool = False
    _step: tuple[int, int] = (0, 0)

    def stop(self) -> None:
        """From any thread: the answer ends after the token, or the batch of the prompt, that is being computed."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def n_cached(self) -> int:
        return max(self.n_prompt - self.n_read, 0)

    def check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def progress(self, n_tokens: int, done: int, total: int) -> None:
        """Llama.on_progress: `done` of `total` tokens that are read now, and `n_tokens` in the cache."""
        if self.reading:
            same = total == self._step[1] and done > self._step[0]
            self.n_read += done - self._step[0] if same else done
            self._step = done, total
            self.n_done = n_tokens
            if self.on_batch is not None:
                self.on_batch(self)
        if self.on_step is not None:
            self.on_step()
        self.check()

    def timings(self) -> dict[str, float]:
        """As llama-server gives them."""
        prompt_ms = (self.first - self.started) * 1000
        predicted_ms = (self.ended - self.first) * 1000
        return {
            "cache_n": self.n_cached,
            "prompt_n": self.n_read,
            "prompt_ms": prompt_ms,
            "prompt_per_second": self.n_read / prompt_ms * 1000 if prompt_ms else 0.0,
            "predicted_n": self.n_predicted,
            "predicted_ms": predicted_ms,
            "predicted_per_second": self.n_predicted / predicted_ms * 1000 if predicted_ms else 0.0,
        }


class WatchedLlama(Llama):
    """A Llama whose answers fill in `watch`."""

    watch: Watch | None = None
    on_rewind: Callable[[], None] | None = None  # called after the cache went back to a checkpoint, or was emptied

    def _restore(self, checkpoint: Checkpoint) -> bool:
        is_restored = super()._restore(checkpoint)
        self._tell_rewind()
        return is_restored

    def _forget(self) -> None:
        super()._forget()
        self._tell_rewind()

    def _tell_rewind(self) -> None:
        if self.on_rewind is not None:
            self.on_rewind()

    def generate(self, tokens: Sequence[int], *args: Any, **kwargs: Any) -> Generator[int, Sequence[int] | None, None]:
        watch = self.watch
        if watch is None:
            yield from super().generate(tokens, *args, **kwargs)
            return
        watch.n_prompt += len(tokens)
        watch.reading = True
        for index, token in enumerate(super().generate(tokens, *args, **kwargs)):
            watch.reading = False
            watch.ended = time.perf_counter()
            watch.first = watch.first or watch.ended
            if not llama_cpp.llama_vocab_is_eog(self._model.vocab, token):
                watch.n_predicted += 1
                if watch.n_top is not None:
                    watch.logprobs.append(self._logprob(token, watch.n_top))
            watch.check()
            yield token
            if index == 0:  # the text may come back with another answer, or another turn, than this one
                self.checkpoint()

    def _logprob(self, token: int, n_top: int) -> TokenLogprob:
        logits = self.last_logits()
        assert logits is not None  # a token was sampled from them
        logprobs = logits.astype(np.float64) - logits.max()
        logprobs -= np.log(np.exp(logprobs).sum())
        ranked = [int(other) for other in np.argsort(-logprobs, kind="stable")[:n_top]]
        return TokenLogprob(
            piece=self.detokenize([token], special=True),
            logprob=float(logprobs[token]),
            top=[(self.detokenize([other], special=True), float(logprobs[other])) for other in ranked],
        )

    def watched(self, watch: Watch) -> _Watching:
        """While this context is entered, answers fill in `watch`."""
        return _Watching(self, watch)


class _Watching:
    def __init__(self, llm: WatchedLlama, watch: Watch) -> None:
        self._llm, self._watch = llm, watch

    def __enter__(self) -> None:
        watch, llm = self._watch, self._llm
        watch.started = time.perf_counter()
        llm.watch = watch
        llm.on_progress = lambda done, total: watch.progress(llm.n_tokens, done, total)

    def __exit__(self, *_: object) -> None:
        self._llm.watch = self._llm.on_progress = None
        watch = self._watch
        watch.n_reread = self._llm.last_reread if watch.n_prompt else 0
        watch.ended = max(watch.ended, watch.started)
        watch.first = watch.first or watch.ended
