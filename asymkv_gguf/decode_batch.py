"""The tokens of one llama_decode, as arrays that are filled and not built anew."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt


class DecodeBatch:
    """Room for `capacity` tokens of sequence 0, in NumPy arrays that `native` (struct llama_batch) points to."""

    def __init__(self, capacity: int) -> None:
        self.tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)  # of which tokens logits are wanted
        # without sequence numbers, llama.cpp takes number 0
        self.native: Any = llama_cpp.llama_batch()
        self.native.token = self.tokens.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token))
        self.native.pos = self._positions.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_pos))
        self.native.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_bytes(self) -> int:
        return self.tokens.nbytes + self._positions.nbytes + self._wanted.nbytes

    def fill(self, tokens: Sequence[int] | npt.NDArray[np.intc], position: int, all_logits: bool) -> None:
        """`tokens`, the first of them at `position`; logits of the last one, or of all."""
        n = len(tokens)
        self.native.n_tokens = n
        self.tokens[:n] = tokens
        self._positions[:n] = np.arange(position, position + n, dtype=np.int32)
        self._wanted[:n] = all_logits
        self._wanted[n - 1] = True
