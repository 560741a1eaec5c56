"""A second context on the same weights."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TypeVar

import llama_cpp
from llama_cpp import _internals

from .errors import UnsupportedError
from .llama import Llama, _api
from .model_file import error_log, translated

L = TypeVar("L", bound=Llama)


def sibling(llm: L) -> L:
    """A `Llama` with the settings and the weights of `llm`, and a context of its own, empty.

    Both can be used at the same time, each in a thread of its own. Closing `llm` closes its siblings, too.
    """
    if llm._workers is not None:
        raise UnsupportedError("RPC workers compute for one context only; open the model a second time, with other workers")
    other: L = object.__new__(type(llm))
    other.__dict__.update(llm.__dict__)
    # from here on, whatever belongs to one context only
    other._stack = contextlib.ExitStack()
    other._elder = llm  # its weights must not be freed before us
    other.cache = None
    other._start_empty()
    params = None if llm.asymkv is None else _api.params(**_api.context_params(llm.ctx))
    with error_log() as log:
        _api.set_next(params)  # taken by the next context of this thread
        try:
            context = _internals.LlamaContext(model=llm._model, params=llm.context_params, verbose=llm.verbose)
        except ValueError as error:
            raise translated(error, llm.model_path, log) from error
        finally:
            _api.set_next(None)
    other._ctx = other._stack.enter_context(contextlib.closing(context))
    other._make_buffers()
    if llm._lora_adapter is not None:
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(llm._lora_adapter)
        scales = (ctypes.c_float * 1)(llm.lora_scale)
        if llama_cpp.llama_set_adapters_lora(context.ctx, adapters, 1, scales):
            raise RuntimeError(f"the LoRA adapter {llm.lora_path} could not be set on another context")
    other._candidates = _internals.LlamaTokenDataArray(n_vocab=llm._n_vocab)
    other._mirostat_mu = ctypes.c_float(llm._mirostat_mu.value)
    other._sampler = None
    other.n_tokens = 0
    other._requires_eval = True
    return other
