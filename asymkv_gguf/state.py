"""The context's state as bytes: cells, keys, values, and what the merged slots stand for."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from .errors import AsymKVError

Bytes = npt.NDArray[np.uint8]


def state_size(context: Any) -> int:
    """Bytes that `read_state` would return. Nothing is copied for this."""
    return int(llama_cpp.llama_state_get_size(context))


def read_state(context: Any) -> Bytes:
    """The state, copied once."""
    size = state_size(context)
    state = np.empty(size, np.uint8)
    written = int(llama_cpp.llama_state_get_data(context, _pointer(state), size))
    if not 0 < written <= size:
        raise AsymKVError(f"llama.cpp could not save the context's state ({size:,} bytes)")
    return state[:written]


def write_state(context: Any, state: Bytes) -> bool:
    """Replaces the context's state. False: llama.cpp refused it, and the cache is empty now."""
    return len(state) > 0 and int(llama_cpp.llama_state_set_data(context, _pointer(state), len(state))) == len(state)


def n_cached(context: Any) -> int:
    """Tokens up to the last one in the cache."""
    memory = llama_cpp.llama_get_memory(context)
    return 0 if memory is None else int(llama_cpp.llama_memory_seq_pos_max(memory, 0)) + 1


def _pointer(state: Bytes) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
