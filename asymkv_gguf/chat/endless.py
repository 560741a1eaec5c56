"""A chat without an end: positions stay within what the model was trained for, and n_ctx is out of reach."""

from __future__ import annotations

from typing import Any

from ..config import CAN_EVICT, AsymKVConfig
from ..llama import Llama

ENDLESS = 1 << 22  # tokens, weeks of talk; memory does not depend on it


def without_an_end(config: AsymKVConfig, n_trained: int, n_batch: int, horizon: int | None) -> AsymKVConfig | None:
    """`config` for texts of any length; None if the model was trained for fewer tokens than compact positions need.

    Unless `horizon` is given (0: none) what lies further back than the model could ever have seen leaves first, so that
    it does not take the place of what is new.
    """
    if n_trained < 2 * (config.recent + config.room(n_batch)):
        return None
    if horizon is None and config.evict and config.score in CAN_EVICT:
        config = config.replace(horizon=n_trained)
    return config.replace(positions="compact")


def is_without_an_end(llm: Llama) -> bool:
    return llm.asymkv is not None and llm.n_ctx() >= ENDLESS


def full_cache_bytes(llm: Llama, stats: Any) -> int:
    """Keys and values of a stock cache for the same text: of n_ctx tokens, or of those there are where that has no end."""
    full: int = stats.stock_kv_bytes
    return full * stats.tokens // llm.n_ctx() if is_without_an_end(llm) else full
