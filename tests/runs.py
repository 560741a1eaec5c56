"""Reading token lists through a model, the same way for every cache. Works without asymkv_gguf: the stock side uses it."""

from __future__ import annotations

from typing import Any

import llama_cpp
import numpy as np

Q8_0, Q4_0, F16 = llama_cpp.GGML_TYPE_Q8_0, llama_cpp.GGML_TYPE_Q4_0, llama_cpp.GGML_TYPE_F16
CACHE_TYPES = {"f16": F16, "q8_0": Q8_0, "q4_0": Q4_0}


def settings(cache_type: str = "f16", flash_attn: bool = True, n_ctx: int = 1024, n_batch: int = 64) -> dict[str, Any]:
    """Keywords of llama_cpp.Llama. One thread: these models are tiny."""
    return {
        "n_ctx": n_ctx,
        "n_batch": n_batch,
        "n_ubatch": n_batch,
        "type_k": CACHE_TYPES[cache_type],
        "type_v": CACHE_TYPES[cache_type],
        "flash_attn": flash_attn,
        "swa_full": True,  # llama_cpp's default; with asymkv it is off unless asked for
        "n_threads": 1,
        "n_threads_batch": 1,
        "verbose": False,
    }


def random_tokens(n: int, seed: int = 0) -> list[int]:
    """A start token and n - 1 bytes of tiny_models' vocabulary."""
    return [1, *np.random.default_rng(seed).integers(3, 259, n - 1).tolist()]


def last_logits(llm: Any) -> np.ndarray:
    """Logits after the last token read, [n_vocab]."""
    pointer = llama_cpp.llama_get_logits(llm.ctx)
    return np.array(np.ctypeslib.as_array(pointer, shape=(llm.n_vocab(),)))


def read(llm: Any, tokens: list[int], n_batch: int) -> np.ndarray:
    """Logits after every batch, [n_batches, n_vocab]."""
    logits = []
    for start in range(0, len(tokens), n_batch):
        llm.eval(tokens[start : start + n_batch])
        logits.append(last_logits(llm))
    return np.array(logits)
