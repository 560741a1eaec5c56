"""What can be known of a model before its weights are loaded: the memory it will take, and how it spells text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import llama_cpp

from .arguments import with_defaults
from .config import AsymKVConfig
from .errors import UnsupportedError
from .llama import Llama, _api
from .model_file import check_model_file, context_failure, error_log, load_failure
from .stats import size_text


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights and of a merged cache (keys and values), and the cache's slots."""

    model_bytes: int
    kv_bytes: int
    slots: int

    def notice(self) -> str:
        return f"model {size_text(self.model_bytes)}, cache {size_text(self.kv_bytes)} ({self.slots:,} slots)"


def memory_needed(model_path: str, asymkv: AsymKVConfig, **kwargs: Any) -> Memory:
    """What `Llama` with these arguments will allocate.

    llama.cpp makes the same model and the same cache as it would then, but allocates neither weights nor keys and values.
    """
    kwargs = with_defaults(asymkv, kwargs)
    check_model_file(model_path)
    native = _api.params(**asymkv.native_fields(kwargs["n_batch"]))
    _api.params_check(native)
    with error_log(quiet=True) as log, _without_weights(model_path, log) as model:
        params = _context_params(kwargs)
        _api.set_next(native)
        try:
            context = llama_cpp.llama_init_from_model(model, params)
        finally:
            _api.set_next(None)
        if not context:
            raise UnsupportedError(context_failure(log) or f"llama.cpp makes no context for {model_path}")
        try:
            _api.model_check(model, native)
            stats = _api.stats(context)
        finally:
            llama_cpp.llama_free(context)
        return Memory(int(llama_cpp.llama_model_size(model)), stats["kv_bytes"], stats["n_capacity"])


def bytes_per_slot(model_path: str, **kwargs: Any) -> int:
    """Bytes of K and V in one slot, all layers together: asked of a small cache of the same kind."""
    small = AsymKVConfig(budget=8, sinks=1, recent=4, observe=1, chunk=1, per_head=False)
    memory = memory_needed(model_path, small, n_ctx=256, **kwargs)
    return memory.kv_bytes // memory.slots


def trained_context(model_path: str) -> int:
    """Tokens that the model was trained for; 0: it does not say."""
    check_model_file(model_path)
    with error_log(quiet=True) as log, _without_weights(model_path, log) as model:
        return int(llama_cpp.llama_model_n_ctx_train(model))


def vocabulary(model_path: str) -> Llama:
    """The model without weights: it tokenizes, and knows its chat template."""
    with error_log(quiet=True):
        return Llama(model_path, vocab_only=True, verbose=False)


@contextmanager
def _without_weights(model_path: str, log: list[str]) -> Iterator[Any]:
    params = llama_cpp.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE  # a mapped file would be an allocation
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(model_path.encode(), params)
    if not model:
        raise load_failure(model_path, log)
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


def _context_params(kwargs: Mapping[str, Any]) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = kwargs["n_ctx"]
    params.n_batch = kwargs["n_batch"]
    params.n_ubatch = min(kwargs["n_batch"], kwargs.get("n_ubatch") or params.n_ubatch)
    for name in ("type_k", "type_v"):
        if kwargs.get(name) is not None:
            setattr(params, name, kwargs[name])
    enabled = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if kwargs["flash_attn"] else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.flash_attn_type = enabled
    params.swa_full = bool(kwargs["swa_full"])
    return params
