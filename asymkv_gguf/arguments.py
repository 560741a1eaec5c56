"""The arguments of a `Llama` that has a merged cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import AsymKVConfig
from .errors import UnsupportedError


def with_defaults(config: AsymKVConfig, kwargs: Mapping[str, Any]) -> dict[str, Any]:
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
