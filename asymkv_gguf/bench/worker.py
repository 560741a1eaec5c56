"""One mode in a process of its own. Run as a script: in mode `stock` nothing of asymkv_gguf may be imported.

Commands come as JSON lines on stdin, one answer each goes to the stdout that the process was started with:
    {"do": "prefill", "to": 512}  ->  {"position": 512, "seconds": [...], ...}
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, TextIO

_MIB = 1 << 20
_BUFFER = re.compile(r"(\S+) (KV|compute) buffer size =\s*([\d.]+) MiB")


class BufferLog:
    """Sizes of llama.cpp's buffers, which only its log tells; to 0.01 MiB."""

    def __init__(self, llama_cpp: Any) -> None:
        self.sizes: dict[tuple[str, str], float] = {}
        self.errors: list[str] = []
        self._line = ""
        self._callback = llama_cpp.llama_log_callback(self._receive)  # kept: C holds no reference
        llama_cpp.llama_log_set(self._callback, None)

    def _receive(self, level: int, text: bytes, _: Any) -> None:
        self._line += text.decode(errors="replace")
        if not self._line.endswith("\n"):
            return
        for device, kind, size in _BUFFER.findall(self._line):
            self.sizes[kind, device] = float(size)
        if level == 4:  # GGML_LOG_LEVEL_ERROR
            self.errors.append(self._line.strip())
        self._line = ""

    def total_bytes(self, kind: str) -> int | None:
        sizes = [size for (of, _), size in self.sizes.items() if of == kind]
        return round(sum(sizes) * _MIB) if sizes else None


class Bench:
    """A model and a context, read and decoded through llama.cpp's own calls: no sampling, no copies of logits."""

    def __init__(self, mode: str, seed: int, arguments: dict[str, Any]) -> None:
        if mode == "stock":
            import llama_cpp

            make: Any = llama_cpp.Llama
            arguments = {name: value for name, value in arguments.items() if name != "asymkv"}
        else:
            import asymkv_gguf

            make = asymkv_gguf.Llama
            import llama_cpp

            if mode == "off":
                arguments = {**arguments, "asymkv": False}
        import numpy as np

        self.c: Any = llama_cpp
        self.log = BufferLog(llama_cpp)
        self.merged = mode == "on"
        try:
            self.llm = make(**arguments, verbose=False)
        except ValueError as error:
            # stock's error has no reason, its log has
            reason = self.log.errors[-1] if mode == "stock" and self.log.errors else ""
            raise RuntimeError(f"{error}: {reason}" if reason else str(error)) from error
        if mode == "stock" and "asymkv_gguf" in sys.modules:
            raise RuntimeError("mode stock has imported asymkv_gguf")
        self.context = self.llm.ctx
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.n_batch: int = self.llm.n_batch
        tokens = np.random.default_rng(seed).integers(self.llm.n_vocab(), size=self.llm.n_ctx())
        if (bos := self.llm.token_bos()) >= 0:
            tokens[0] = bos
        self.tokens: list[int] = tokens.tolist()
        self.position = 0
        gc.disable()  # no pause inside of a measurement; nothing here makes cycles

    # what can be asked for

    def info(self) -> dict[str, Any]:
        return {
            "n_ctx": self.llm.n_ctx(),
            "n_batch": self.n_batch,
            "n_ubatch": self.llm.context_params.n_ubatch,
            "system": self.c.llama_print_system_info().decode(),
        }

    def prefill(self, to: int) -> dict[str, Any]:
        """Read up to position `to`, in batches."""
        first = self.position
        started = time.perf_counter()
        while self.position < to:
            self._decode(min(self.n_batch, to - self.position))
        return {"n": self.position - first, "seconds": time.perf_counter() - started}

    def fill(self, to: int) -> dict[str, Any]:
        """Take the cache to position `to` without reading: the rows that are there are repeated. What a cache holds does
        not change how long it takes to read it."""
        import ctypes

        size = self.c.llama_state_seq_get_size(self.context, 0)
        state = (ctypes.c_uint8 * size)()
        if self.c.llama_state_seq_get_data(self.context, state, size, 0) != size:
            raise RuntimeError("llama.cpp could not save the cache's state")
        grown = stretched(bytes(state), to)
        data = (ctypes.c_uint8 * len(grown)).from_buffer(grown)
        if self.c.llama_state_seq_set_data(self.context, data, len(grown), 0) != len(grown):
            raise RuntimeError(f"llama.cpp could not take a cache of {to:,} tokens")
        self.position = to
        del state, data, grown
        with contextlib.suppress(OSError):  # what this took is no part of the peak
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return {}

    def decode(self, n: int) -> dict[str, Any]:
        """Read n tokens one by one, as generation does."""
        seconds = []
        for _ in range(n):
            started = time.perf_counter()
            self._decode(1)
            seconds.append(time.perf_counter() - started)
        return {"seconds": seconds}

    def rewind(self, to: int) -> dict[str, Any]:
        """Take tokens back; a merged cache may have to keep them."""
        if to < self.position and self.c.llama_memory_seq_rm(self.memory, 0, to, -1):
            self.position = to
        return {}

    def reuse(self, to: int, suffix: int) -> dict[str, Any]:
        """The first token after prefix reuse: cut the text at `to`, read a new suffix."""
        started = time.perf_counter()
        self.rewind(to)
        self._decode(suffix)
        return {"seconds": time.perf_counter() - started}

    def clear(self) -> dict[str, Any]:
        self.c.llama_memory_clear(self.memory, True)
        self.position = 0
        return {}

    def _decode(self, n: int) -> None:
        if self.position + n > len(self.tokens):
            raise RuntimeError(f"the context of {len(self.tokens):,} tokens is full")
        tokens = (self.c.llama_token * n)(*self.tokens[self.position : self.position + n])
        status = self.c.llama_decode(self.context, self.c.llama_batch_get_one(tokens, n))
        if status != 0:
            reason = f": {self.log.errors[-1]}" if self.log.errors else ""
            raise RuntimeError(f"llama_decode returned {status} at token {self.position:,}{reason}")
        self.c.llama_synchronize(self.context)
        self.position += n

    def state(self) -> dict[str, Any]:
        """What every answer says besides its own."""
        return {
            "position": self.position,
            "asymkv": self.llm.asymkv_stats().as_dict() if self.merged else None,
            "kv_bytes": self.log.total_bytes("KV"),
            "compute_buffer_bytes": self.log.total_bytes("compute"),
            **resident_bytes(),
        }


def stretched(state: bytes, n_cells: int) -> bytearray:
    """A sequence's state (llama_state_seq_get_data) whose rows are repeated until there are `n_cells`.

    Understood are plain caches: one stream, cells of one sequence and one position, values that are not transposed.
    """
    import numpy as np

    at = 8  # behind magic and sequence

    def integers(kind: str, n: int = 1) -> Any:
        nonlocal at
        values = np.frombuffer(state, kind, n, at)
        at += values.nbytes
        return values

    try:
        n_stream, n_old = (int(value) for value in integers("<u4", 2))
        cells = integers("<i4", 3 * n_old).reshape(n_old, 3)  # position, number of sequences, sequence
        (v_trans, n_layer) = (int(value) for value in integers("<u4", 2))
        if (n_stream, v_trans) != (1, 0) or n_old == 0 or not (cells[:, 1:] == (1, 0)).all():
            raise ValueError
        grown_cells = np.ones((n_cells, 3), "<i4")
        grown_cells[:, 0], grown_cells[:, 2] = np.arange(n_cells), 0
        parts = [state[:12], np.array([n_cells], "<u4").tobytes(), grown_cells.tobytes(), state[at - 8 : at]]
        for _ in range(2 * n_layer):  # keys of all layers, then values
            head, row_bytes = state[at : at + 12], int(np.frombuffer(state, "<u8", 1, at + 4)[0])
            at += 12
            rows = integers("u1", n_old * row_bytes).reshape(n_old, row_bytes)
            parts += [head, np.resize(rows, (n_cells, row_bytes)).tobytes()]
        if at != len(state):
            raise ValueError
    except ValueError:
        raise RuntimeError("this model's cache cannot be filled without reading; leave out --sample") from None
    return bytearray().join(parts)


def resident_bytes() -> dict[str, int | None]:
    """Memory of this process that is in RAM: the most so far, now, and without mapped files."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        names = {"peak_rss_bytes": "VmHWM", "rss_bytes": "VmRSS", "rss_anon_bytes": "RssAnon"}
        return {name: int(fields[field].split()[0]) * 1024 for name, field in names.items()}
    except (OSError, KeyError):
        import psutil

        memory = psutil.Process().memory_info()
        peak = getattr(memory, "peak_wset", None)
        if peak is None:
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
        return {"peak_rss_bytes": peak, "rss_bytes": memory.rss, "rss_anon_bytes": None}


def serve(commands: TextIO, answers: TextIO) -> None:
    bench: Bench | None = None
    for line in commands:
        request = json.loads(line)
        do = request.pop("do")
        try:
            if bench is None:
                bench = Bench(**request)
                answer = bench.info()
            else:
                answer = getattr(bench, do)(**request)
            answer.update(bench.state())
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            answer = {"error": str(error) or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    # stdout belongs to the answers; whatever else is printed goes where errors go
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, channel)
