"""How fast this machine reads memory, measured: what bounds a decoder, which reads all weights for every token."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Final

import numpy as np
import psutil

METHOD: Final = "memchr over private buffers, one per thread; the best pass"
_TOTAL_BYTES: Final = 1 << 29  # more than caches hold
_PASSES: Final = 5


def read_bandwidth(n_threads: int, total_bytes: int = _TOTAL_BYTES) -> float:
    """Bytes per second that `n_threads` read together. memchr does nothing but read, and runs without Python's lock."""
    size = min(total_bytes, psutil.virtual_memory().available // 4) // n_threads
    memchr = ctypes.CDLL("msvcrt" if hasattr(ctypes, "WinDLL") else None).memchr
    memchr.restype, memchr.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    # filled, as untouched pages would all be the same one
    buffers = [np.full(size, 1, np.uint8) for _ in range(n_threads)]
    ready = threading.Barrier(n_threads)
    spans: list[list[tuple[float, float]]] = [[] for _ in range(n_threads)]

    def read(thread: int) -> None:
        for _ in range(_PASSES):
            ready.wait()
            started = time.perf_counter()
            memchr(buffers[thread].ctypes.data, 2, size)  # not there: all of it is read
            spans[thread].append((started, time.perf_counter()))

    threads = [threading.Thread(target=read, args=(thread,)) for thread in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passes: list[float] = [max(end for _, end in one) - min(start for start, _ in one) for one in zip(*spans, strict=True)]
    return float(n_threads * size / min(passes))
