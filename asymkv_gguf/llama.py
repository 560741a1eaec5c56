"""`llama_cpp.Llama` with a merged KV cache: the same class, one keyword more."""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp._internals import LlamaBatch

from . import checkpoints
from .arguments import with_defaults
from .cache_types import check_cache_type
from .chat_template import template_errors
from .checkpoints import Checkpoint, Checkpoints
from .config import AsymKVConfig
from .decode_batch import DecodeBatch
from .errors import AsymKVError
from .model_file import check_lora_file, check_model_file, error_log, translated
from .native.api import Api
from .native.loader import load
from .prompt_tokens import PromptTokens
from .rpc import Workers
from .state import Bytes, n_cached, read_state, state_size, write_state
from .stats import AsymKVStats, size_text
from .tokenizer import CachedTokenizer
from .tokens import common_prefix

_native = load()
_api = Api(_native.library, _native.header)


class Llama(llama_cpp.Llama):  # type: ignore[misc, unused-ignore]
    """A llama_cpp.Llama whose KV cache may be merged.

    `asymkv` is False (the stock cache), True (the defaults), an AsymKVConfig, or a dict of its settings. With it on,
    `n_ctx` is the longest text (default: what the model was trained for), memory is set by the config's `budget`,
    `flash_attn` is on by default, and `n_batch` defaults to what the budget allows. `rpc_servers` names RPC workers,
    "host:port,host:port", that compute the layers (all of them, unless `n_gpu_layers` says how many). Everything else is
    llama_cpp's.
    """

    n_tokens: int  # read, and not taken back
    on_progress: Callable[[int, int], None] | None  # called while tokens are read: how many were, and how many there are
    on_reread: Callable[[int, int], None] | None  # called before tokens are read again: how many, and how many are kept
    last_reread: int  # tokens that the last cut made us read again; 0: it was taken back exactly
    last_sampled: int  # the token that was sampled last, which may not be read yet; -1: none
    max_checkpoints: int  # how many are kept at most
    max_checkpoint_bytes: int  # memory that they take at most

    def __init__(
        self,
        model_path: str,
        *,
        asymkv: bool | AsymKVConfig | Mapping[str, Any] | None = False,
        rpc_servers: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        # set first: __del__ must work on an object whose construction failed
        self._stack = contextlib.ExitStack()
        self._asymkv: AsymKVConfig | None = None
        self._workers: Workers | None = None
        self.max_checkpoints = checkpoints.MAX_CHECKPOINTS
        self.max_checkpoint_bytes = checkpoints.MAX_BYTES
        self._start_empty()
        config = AsymKVConfig.from_value(asymkv)
        model_path = str(model_path)
        for name in ("type_k", "type_v"):
            check_cache_type(name, kwargs.get(name))
        if kwargs.get("lora_path") is not None:
            check_lora_file(str(kwargs["lora_path"]))
        if config is not None:
            kwargs = with_defaults(config, kwargs)
        check_model_file(model_path)
        if rpc_servers:
            self._workers = Workers(rpc_servers)
            kwargs.setdefault("n_gpu_layers", -1)
        params = None
        if config is not None:
            params = _api.params(**config.native_fields(kwargs["n_batch"]))
            _api.params_check(params)
        # of an n_ctx beyond what the model was trained for, to which compact positions do not go
        without = b"possible training context overflow" if config is not None and config.positions == "compact" else None
        with error_log(without=without) as log:
            # taken by the next context of this thread, which the constructor makes
            _api.set_next(params)
            try:
                with self._watched(), template_errors(model_path):
                    super().__init__(model_path, **kwargs)
            except Exception as error:
                self.close()
                if isinstance(error, ValueError):
                    raise translated(error, model_path, log) from error
                raise
            finally:
                _api.set_next(None)
        if kwargs.get("tokenizer") is None:
            self.tokenizer_ = CachedTokenizer(self)
        self._asymkv = config
        if params is not None:
            self._check_cache(params)
        self._batch.close()
        self._make_buffers()

    def _start_empty(self) -> None:
        """What belongs to one context, beside llama_cpp's."""
        self.on_progress = None
        self.on_reread = None
        self.last_reread = 0
        self.last_sampled = -1
        self._prompt_is_next = False  # a completion's text is what tokenize() gets next
        self._checkpoints = Checkpoints()
        # logits that were restored, and not computed in this context, and after how many tokens
        self._restored_logits: npt.NDArray[np.single] | None = None
        self._restored_at = 0

    def _make_buffers(self) -> None:
        """llama_cpp's batch has n_ctx sequence numbers for each token, and its scores n_batch rows that nothing fills."""
        self._batch: LlamaBatch = self._stack.enter_context(
            contextlib.closing(LlamaBatch(n_tokens=self.n_batch, embd=0, n_seq_max=1))
        )
        self._decode_batch = DecodeBatch(self.n_batch)
        self.input_ids: npt.NDArray[np.intc] = np.zeros_like(self.input_ids)
        self.scores = np.zeros((len(self.input_ids) if self._logits_all else 1, self._n_vocab), np.single)

    # RPC workers

    @property
    def model_params(self) -> Any:
        """What the model is opened with: llama_cpp's struct."""
        return self._model_params

    @model_params.setter
    def model_params(self, params: Any) -> None:
        # llama_cpp has no keyword for devices; this runs while its constructor fills in the struct
        if self._workers is not None:
            params.devices = self._workers.device_list
        self._model_params = params

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        """Around everything that computes: nothing is taken for a result that a lost worker should have computed."""
        return self._workers.watched(self._synchronize) if self._workers is not None else contextlib.nullcontext()

    def check_workers(self) -> None:
        """RpcError if a worker went away, and the model with it."""
        if self._workers is not None:
            self._workers.check()

    def _synchronize(self) -> None:
        llama_cpp.llama_synchronize(self.ctx)

    def close(self) -> None:
        """Free the model and its context."""
        super().close()
        if self._workers is not None:
            self._workers.close()

    # the merged cache

    def _check_cache(self, params: Any) -> None:
        """Nobody may believe to have a merged cache who has the stock one."""
        try:
            _api.model_check(self.model, params)
            _api.stats(self.ctx)
        except AsymKVError:
            self.close()
            raise

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
        with self._watched():
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

    # checkpoints

    def checkpoint(self) -> None:
        """Keeps the state as it is now, so that going back to here needs no second reading.

        At most `max_checkpoints` are kept, in at most `max_checkpoint_bytes`: dense near the end of the text. Does nothing
        with the stock cache, which takes back everything exactly.
        """
        self._check_open()
        if self._asymkv is None or self.n_tokens == 0:
            return
        self._cut()
        tokens = self._input_ids.copy()
        logits = self.last_logits()
        n_bytes = state_size(self.ctx) + tokens.nbytes + (0 if logits is None else logits.nbytes)
        if self._checkpoints.make_room(tokens, n_bytes, self.max_checkpoints, self.max_checkpoint_bytes):
            self._checkpoints.add(Checkpoint(tokens, self._read_state(), logits))
        else:
            self._say(f"asymkv: no checkpoint, {size_text(n_bytes)} are more than max_checkpoint_bytes")

    @property
    def n_checkpoints(self) -> int:
        return len(self._checkpoints)

    @property
    def checkpoint_bytes(self) -> int:
        """Memory that the checkpoints take."""
        return self._checkpoints.n_bytes

    def _restore(self, checkpoint: Checkpoint) -> bool:
        """Goes back to a checkpoint. False: the context is empty now."""
        if not self._write_state(checkpoint.state):
            self._checkpoints.remove(checkpoint)
            self._ctx.kv_cache_clear()
            self._forget()
            return False
        self._resume(checkpoint.tokens, checkpoint.logits)
        return True

    def _read_state(self) -> Bytes:
        with self._watched():
            return read_state(self.ctx)

    def _write_state(self, state: Bytes) -> bool:
        with self._watched():
            return write_state(self.ctx, state)

    def _resume(self, tokens: npt.NDArray[np.intc], logits: npt.NDArray[np.single] | None) -> None:
        """The native state was restored, and holds `tokens`."""
        self.input_ids[: len(tokens)] = tokens
        self.n_tokens = len(tokens)
        self._restored_logits, self._restored_at = logits, len(tokens)
        self._requires_eval = logits is None

    def last_logits(self) -> npt.NDArray[np.single] | None:
        """The logits after the last token, a copy, [n_vocab]; None where a token has to be read first."""
        self._check_open()
        if self._requires_eval or self.n_tokens == 0 or n_cached(self.ctx) != self.n_tokens:
            return None
        if self._restored_logits is not None:
            return self._restored_logits.copy() if self._restored_at == self.n_tokens else None
        return np.array(self._logits(-1))

    def _cut(self) -> None:
        """Takes back what was read after `n_tokens`, from the nearest checkpoint where the cache cannot."""
        if self._ctx.kv_cache_seq_rm(-1, self.n_tokens, -1) or self._asymkv is None:
            return
        kept = self._input_ids.copy()
        checkpoint = self._checkpoints.nearest(kept)
        if checkpoint is None or not self._restore(checkpoint):
            self._ctx.kv_cache_clear()
            self.n_tokens = 0
        self._tell_reread(len(kept) - self.n_tokens, self.n_tokens)
        self._read(kept[self.n_tokens :])

    def _reuse(self, tokens: list[int]) -> list[int]:
        """Keeps as much of what was read as `tokens` begin with; returns those that are left to read."""
        self.last_reread = 0
        wanted = np.asarray(tokens, np.intc)
        common = common_prefix(self._input_ids, wanted)
        if common == len(tokens) == self.n_tokens and not self._requires_eval:
            return []
        # where nothing is left to read, the last token is read once more for its logits
        n_kept = common - 1 if common == len(tokens) else common
        checkpoint = self._checkpoints.nearest(wanted)
        is_other_text = checkpoint is not None and checkpoint.n_tokens > common
        if not is_other_text and n_kept > 0 and self._ctx.kv_cache_seq_rm(-1, n_kept, -1):
            if n_kept < self.n_tokens:
                self._requires_eval = True
            self.n_tokens = n_kept
            return tokens[n_kept:]
        if checkpoint is None or not self._restore(checkpoint):
            self._forget()
        self._tell_reread(n_kept - self.n_tokens, self.n_tokens)
        return tokens[self.n_tokens :]

    def _tell_reread(self, n_again: int, n_kept: int) -> None:
        self.last_reread = max(n_again, 0)
        if n_again > 0:
            what = "asymkv: merged tokens" if self._asymkv is not None else "Llama.generate: tokens"
            self._say(f"{what} cannot be taken back, reading {n_again:,} tokens again ({n_kept:,} are kept)")
            if self.on_reread is not None:
                self.on_reread(n_again, n_kept)

    def _say(self, sentence: str) -> None:
        if self.verbose:
            print(sentence, file=sys.stderr)

    # llama_cpp.Llama

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after those already there.

        A merged cache can take back its recent tokens, but not part of a merged slot. llama_cpp does not look whether
        it could; here the nearest checkpoint is restored where it could not, and the text after it is read again.
        """
        self._check_length(tokens)
        self._cut()
        self._read(tokens)

    def _check_length(self, tokens: Sequence[int]) -> None:
        self._check_open()
        if self.n_tokens + len(tokens) > len(self.input_ids):
            raise ValueError(f"{self.n_tokens + len(tokens):,} tokens are more than n_ctx = {self._n_ctx:,}; {self._longer()}")

    def _longer(self) -> str:
        """What to do about a text that is too long."""
        if self._asymkv is not None and self._asymkv.positions == "original" and self._n_ctx >= self._model.n_ctx_train():
            return (
                "raise n_ctx with compact positions (-c N --asymkv-positions compact on the command line) or shorten the text"
            )
        return "raise n_ctx (-c on the command line; 0: what the model was trained for) or shorten the text"

    def _read(self, tokens: Sequence[int] | npt.NDArray[np.intc]) -> None:
        n_step = min(self.n_batch, len(self._decode_batch))
        with self._watched():
            for start in range(0, len(tokens), n_step):
                batch = tokens[start : start + n_step]
                self._decode(batch)
                if self.on_progress is not None:
                    self.on_progress(start + len(batch), len(tokens))

    def eval_with_logits(self, tokens: Sequence[int]) -> Generator[npt.NDArray[np.single], None, None]:
        """Evaluate tokens, batch by batch, and yield the logits after each token, [n, n_vocab].

        Nothing is copied: a batch's logits are overwritten by the next, so that a long text with a large vocabulary fits.
        """
        self._check_length(tokens)
        self._cut()
        for start in range(0, len(tokens), self.n_batch):
            batch = tokens[start : start + self.n_batch]
            with self._watched():
                self._decode(batch, all_logits=True)
            yield np.ctypeslib.as_array(self._ctx.get_logits(), shape=(len(batch), self._n_vocab))

    def _decode(self, tokens: Sequence[int] | npt.NDArray[np.intc], all_logits: bool = False) -> None:
        """One llama_decode. Nothing is copied but the tokens, and with logits_all their logits."""
        first, end = self.n_tokens, self.n_tokens + len(tokens)
        self._decode_batch.fill(tokens, first, self._logits_all or all_logits)
        if self._asymkv is not None:
            _api.forget_error()
        status = llama_cpp.llama_decode(self.ctx, self._decode_batch.native)
        if status != 0:
            raise self._decode_failure(status)
        self.input_ids[first:end] = self._decode_batch.tokens[: len(tokens)]
        if self._logits_all:
            self.scores[first:end] = np.ctypeslib.as_array(self._ctx.get_logits(), shape=(len(tokens), self._n_vocab))
        self.n_tokens = end
        self._requires_eval = False
        self._restored_logits = None

    def _decode_failure(self, status: int) -> RuntimeError:
        """llama_cpp's error, or the merged cache's reason where there is one."""
        reason = _api.new_error() if self._asymkv is not None else None
        is_cleared = self.n_tokens > 0 and n_cached(self.ctx) == 0  # a compression, or a batch's place, failed half-way
        if is_cleared:
            self._forget()
        if reason is not None:
            return AsymKVError(reason)
        return RuntimeError(f"llama_decode returned {status}" + (", and the cache was cleared" if is_cleared else ""))

    def generate(  # type: ignore[override, unused-ignore]
        self,
        tokens: Sequence[int],
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        reset: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> Generator[int, Sequence[int] | None, None]:
        """llama_cpp's, with the common prefix found at once, and checkpoints where the merged cache refuses a cut."""
        self._check_open()
        tokens = list(tokens)
        if reset and self.n_tokens > 0:
            tokens = self._reuse(tokens)
        elif reset:
            self._forget()
        if not tokens and self.n_tokens == 0:  # llama_cpp asserts
            raise ValueError("the text is empty, and this model does not start texts with a token of its own; give some text")
        settings = (top_k, top_p, min_p, typical_p, temp, repeat_penalty)
        yield from super().generate(tokens, *settings, False, *args, **kwargs)

    def create_chat_completion(self, *args: Any, **kwargs: Any) -> Any:
        """llama_cpp's; ValueError where the model's chat template cannot spell the messages."""
        with template_errors(self.model_path):
            return super().create_chat_completion(*args, **kwargs)

    def sample(self, *args: Any, idx: int | None = None, **kwargs: Any) -> int:
        """llama_cpp's, also from logits that were restored; ValueError where no token fits the grammar."""
        self._check_open()
        is_restored = (
            self._restored_logits is not None and self._restored_at == self.n_tokens and idx in (None, self.n_tokens - 1)
        )
        has_grammar = kwargs.get("grammar") is not None
        if not is_restored and not has_grammar:
            self.last_sampled = int(super().sample(*args, idx=idx, **kwargs))
            return self.last_sampled
        sampler = self._sampler if self._sampler is not None else self._init_sampler(*args, **kwargs)
        # what llama_sampler_sample does with the context's logits
        self._candidates.copy_logits(
            self._restored_logits if is_restored else self._logits(-1 if idx is None else idx - self.n_tokens)
        )
        candidates = self._candidates.candidates
        candidates.data = self._candidates.candidates_data.ctypes.data_as(llama_cpp.llama_token_data_p)
        candidates.selected = -1
        llama_cpp.llama_sampler_apply(sampler.sampler, ctypes.byref(candidates))
        sampled = candidates.data[candidates.selected]
        if has_grammar and not sampled.logit > -math.inf:
            # llama.cpp would end the process
            raise ValueError(
                "no token of this model goes on as the grammar wants; change the grammar, the JSON schema or the logit_bias"
            )
        self.last_sampled = int(sampled.id)
        llama_cpp.llama_sampler_accept(sampler.sampler, self.last_sampled)
        return self.last_sampled

    def _logits(self, index: int) -> npt.NDArray[np.single]:
        """A view of the logits after one of the tokens that were read last."""
        logits: npt.NDArray[np.single] = np.ctypeslib.as_array(self._ctx.get_logits_ith(index), shape=(self._n_vocab,))
        return logits

    def reset(self) -> None:
        """Forget everything, checkpoints too."""
        self._check_open()
        self._checkpoints.clear()
        self._forget()

    def _forget(self) -> None:
        self._restored_logits = None
        super().reset()

    @property
    def ctx(self) -> Any:
        """llama.cpp's context; ValueError if the model is closed."""
        self._check_open()
        return self._ctx.ctx

    def n_ctx(self) -> int:
        """Tokens that the longest text may have."""
        self._check_open()
        return int(super().n_ctx())

    def _check_open(self) -> None:
        if self._ctx.ctx is None:
            raise ValueError(f"the model {self.model_path} is closed; open it again with Llama(...)")

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """The tokens of a text; ValueError if the vocabulary cannot spell it."""
        self._check_open()
        is_prompt, self._prompt_is_next = self._prompt_is_next, False
        try:
            tokens: list[int] = super().tokenize(text, add_bos, special)
        except RuntimeError:  # llama_cpp's sentence holds the whole text
            raise ValueError(f"the vocabulary of {self.model_path} cannot spell this text of {len(text):,} bytes") from None
        return PromptTokens(tokens) if is_prompt else tokens

    def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes:
        """The text of tokens."""
        self._check_open()
        return bytes(super().detokenize(tokens, prev_tokens=prev_tokens, special=special))

    def _create_completion(self, prompt: str | list[int], *args: Any, **kwargs: Any) -> Any:
        """llama_cpp's, with what to do about a text that is too long."""
        self._check_open()
        if isinstance(self.tokenizer_, CachedTokenizer):  # others may look at what came before
            self._prompt_is_next = isinstance(prompt, str) and prompt != ""
            prompt = prompt if isinstance(prompt, str) else PromptTokens(prompt)
        try:
            yield from super()._create_completion(prompt, *args, **kwargs)
        except ValueError as error:
            if "exceed context window" in str(error):
                raise ValueError(f"{error}; {self._longer()}") from None
            raise

    def save_state(self) -> llama_cpp.LlamaState:
        """What `load_state` takes, to go on from here in this process; session.py has files."""
        self._check_open()
        state = self._read_state()
        return llama_cpp.LlamaState(
            input_ids=self.input_ids.copy(),
            scores=self._scores.copy(),
            n_tokens=self.n_tokens,
            llama_state=state.tobytes(),
            llama_state_size=len(state),
            seed=self._seed,
        )

    def load_state(self, state: llama_cpp.LlamaState) -> None:
        """Go on where `save_state` was called. AsymKVError, and an empty context, if the state does not fit this one."""
        self._check_open()
        native = np.frombuffer(state.llama_state, np.uint8)[: state.llama_state_size]
        tokens = state.input_ids[: state.n_tokens]
        if len(tokens) > len(self.input_ids) or not self._write_state(native):
            self._ctx.kv_cache_clear()
            self.reset()
            raise AsymKVError(
                "the state could not be loaded, and the context is empty now: it was saved with another model, cache type, "
                "n_batch, budget, per_head or flash_attn, or by another version of asymkv-gguf; load it into a Llama made with "
                "the same settings, or read the text again"
            )
        if self._logits_all:
            rows = min(len(tokens), len(state.scores))
            self.scores[:rows] = state.scores[:rows]
        self._resume(tokens, None)
        self._seed = state.seed

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "asymkv": self._asymkv if self._asymkv is not None else False,
            "rpc_servers": self._workers.endpoints if self._workers is not None else None,
        }
