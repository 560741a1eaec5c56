"""`llama_cpp.Llama` with a merged KV cache: the same class, one keyword more."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llama_cpp
import numpy.typing as npt

from .config import AsymKVConfig
from .errors import AsymKVError, UnsupportedError
from .model_file import check_model_file, context_failure, error_log, load_failure
from .native.api import Api
from .native.loader import load
from .stats import AsymKVStats

_native = load()
_api = Api(_native.library, _native.header)


class Llama(llama_cpp.Llama):  # type: ignore[misc, unused-ignore]
    """A llama_cpp.Llama whose KV cache may be merged.

    `asymkv` is False (the stock cache), True (the defaults), an AsymKVConfig, or a dict of its settings. With it on,
    `n_ctx` is the longest text (default: what the model was trained for), memory is set by the config's `budget`,
    `flash_attn` is on by default, and `n_batch` defaults to what the budget allows. Everything else is llama_cpp's.
    """

    n_tokens: int  # read, and not taken back

    def __init__(
        self,
        model_path: str,
        *,
        asymkv: bool | AsymKVConfig | Mapping[str, Any] | None = False,
        **kwargs: Any,
    ) -> None:
        # set first: __del__ must work on an object whose construction failed
        self._stack = contextlib.ExitStack()
        self._asymkv: AsymKVConfig | None = None
        #: called while tokens are read, with how many were read and how many there are
        self.on_progress: Callable[[int, int], None] | None = None
        config = AsymKVConfig.from_value(asymkv)
        model_path = str(model_path)
        if config is not None:
            kwargs = _with_defaults(config, kwargs)
        check_model_file(model_path)
        params = None
        if config is not None:
            params = _api.params(**config.native_fields(kwargs["n_batch"]))
            _api.params_check(params)
        with error_log() as log:
            # taken by the next context of this thread, which the constructor makes
            _api.set_next(params)
            try:
                super().__init__(model_path, **kwargs)
            except ValueError as error:
                raise _translated(error, model_path, log) from error
            finally:
                _api.set_next(None)
        self._asymkv = config
        if params is not None:
            self._check_cache(params)

    def _check_cache(self, params: Any) -> None:
        """Nobody may believe to have a merged cache who has the stock one."""
        try:
            _api.model_check(self.model, params)
            _api.stats(self.ctx)
        except AsymKVError:
            self.close()
            raise

    # the merged cache

    @property
    def asymkv(self) -> AsymKVConfig | None:
        """The settings of the merged cache; None: the stock cache."""
        return self._asymkv

    def asymkv_stats(self) -> AsymKVStats:
        """Tokens, slots, merges, bytes and times of the merged cache."""
        return AsymKVStats.from_native(_api.stats(self.ctx))

    def asymkv_compress(self, n_keep: int = 0) -> None:
        """Compress now, down to `n_keep` slots (0: the budget); does nothing when that few are live."""
        if isinstance(n_keep, bool) or not isinstance(n_keep, int) or n_keep < 0:
            raise ValueError(f"n_keep must be a number of slots, or 0 for the budget, not {n_keep!r}")
        _api.compress(self.ctx, n_keep)

    def asymkv_slots(self, layer: int = 0, group: int = 0) -> npt.NDArray[Any]:
        """The live slots as one KV head (or, per layer, one layer) sees them, ascending in position.

        A structured array: position, first, last, cardinality, score (asymkv.h, struct asymkv_slot).
        """
        for name, index in (("layer", layer), ("group", group)):
            if isinstance(index, bool) or not isinstance(index, int) or index < 0:
                raise ValueError(f"{name} must be 0 or more, not {index!r}")
        return _api.slots(self.ctx, layer, group)

    def asymkv_lost(self, layer: int = 0, group: int = 0) -> int:
        """Tokens that one group no longer counts: evicted, or clipped off by max_cardinality."""
        return _api.n_lost(self.ctx, layer, group)

    # llama_cpp.Llama

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after those already there.

        A merged cache can take back its recent tokens, but not part of a merged slot. llama_cpp does not look whether
        it could; here the kept text is read again where it could not.
        """
        if self._asymkv is not None:
            if self.n_tokens + len(tokens) > self._n_ctx:
                raise ValueError(
                    f"{self.n_tokens + len(tokens):,} tokens are more than n_ctx = {self._n_ctx:,}; "
                    "raise n_ctx (0: what the model was trained for) or shorten the text"
                )
            if not self._ctx.kv_cache_seq_rm(-1, self.n_tokens, -1):
                kept = self.input_ids[: self.n_tokens].tolist()
                if self.verbose:
                    print(
                        f"asymkv: merged tokens cannot be taken back, reading {len(kept):,} tokens again",
                        file=sys.stderr,
                    )
                self._ctx.kv_cache_clear()
                self.n_tokens = 0
                self._eval_batches(kept)
        self._eval_batches(tokens)

    def _eval_batches(self, tokens: Sequence[int]) -> None:
        if self.on_progress is None:
            super().eval(tokens)
            return
        for start in range(0, len(tokens), self.n_batch):
            batch = tokens[start : start + self.n_batch]
            super().eval(batch)
            self.on_progress(start + len(batch), len(tokens))

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """The tokens of a text; ValueError if the vocabulary cannot spell it."""
        try:
            tokens: list[int] = super().tokenize(text, add_bos, special)
        except RuntimeError:  # llama_cpp's sentence holds the whole text
            raise ValueError(f"the vocabulary of {self.model_path} cannot spell this text of {len(text):,} bytes") from None
        return tokens

    def _create_completion(self, *args: Any, **kwargs: Any) -> Any:
        """llama_cpp's, with what to do about a text that is too long."""
        try:
            yield from super()._create_completion(*args, **kwargs)
        except ValueError as error:
            if "exceed context window" in str(error):
                remedy = "raise n_ctx (-c on the command line; 0: what the model was trained for) or shorten the text"
                raise ValueError(f"{error}; {remedy}") from None
            raise

    def load_state(self, state: llama_cpp.LlamaState) -> None:
        """Go on where `save_state` was called. AsymKVError, and an empty context, if the state does not fit this one."""
        try:
            if state.llama_state_size == 0:
                raise RuntimeError("the state is empty")
            super().load_state(state)
        except (ValueError, RuntimeError) as error:
            # llama_cpp has already counted the state's tokens, which are not there
            self._ctx.kv_cache_clear()
            self.reset()
            raise AsymKVError(
                "the state could not be loaded, and the context is empty now: it was saved with another model, cache type, "
                "n_batch, budget, per_head or flash_attn; load it into a Llama made with the same settings"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "asymkv": self._asymkv if self._asymkv is not None else False}


def _with_defaults(config: AsymKVConfig, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """llama_cpp's arguments as a merged cache wants them."""
    if kwargs.get("embedding"):
        raise UnsupportedError("embedding=True cannot be used with asymkv; embedding models read a text at once")
    if kwargs.get("vocab_only"):
        raise UnsupportedError("vocab_only=True cannot be used with asymkv; there are no weights to run")
    # swa_full, on in llama_cpp, would let the layers with a sliding window keep the whole text
    defaults = {"n_ctx": 0, "n_batch": config.default_batch(), "flash_attn": True, "swa_full": False}
    merged = {**defaults, **kwargs}
    n_ctx = merged["n_ctx"]
    if isinstance(n_ctx, bool) or not isinstance(n_ctx, int) or not 0 <= n_ctx <= 2**31 - 256:
        raise ValueError(f"n_ctx must be a number of tokens, or 0 for what the model was trained for, not {n_ctx!r}")
    # llama.cpp rounds it up, and llama_cpp's own arrays have to be as long
    merged["n_ctx"] = -(-n_ctx // 256) * 256
    n_batch = merged["n_batch"]
    if isinstance(n_batch, bool) or not isinstance(n_batch, int) or n_batch < 1:
        raise ValueError(f"n_batch must be 1 or more, not {n_batch!r}")
    config.check_batch(n_batch)
    return merged


def _translated(error: ValueError, model_path: str, log: list[str]) -> Exception:
    """llama_cpp's error with llama.cpp's reason."""
    message = str(error)
    if message.startswith("Failed to load model from file"):
        return load_failure(model_path, log)
    if message.startswith("Failed to create llama_context"):
        return UnsupportedError(context_failure(log) or message)
    return error
