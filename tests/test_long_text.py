"""Memory and work do not grow with the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from runs import random_tokens, read, settings

from asymkv_gguf import Llama


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_50_000_tokens_pass_through_a_512_slot_cache(tiny: Callable[[str], Path]) -> None:
    """No error, slots within capacity, one compression per freed room, resident memory flat."""
    n_tokens, n_batch = 50_000, 128
    llm = Llama(
        str(tiny("llama")),
        asymkv={"budget": 384, "recent": 64, "chunk": 128},
        **settings(n_ctx=51_200, n_batch=n_batch),
    )
    assert llm.asymkv_stats().capacity == 512
    tokens = random_tokens(n_tokens)
    resident = []
    for start in range(0, n_tokens, 5_000):
        logits = read(llm, tokens[start : start + 5_000], n_batch)
        assert np.isfinite(logits).all()
        resident.append(resident_bytes())
    stats = llm.asymkv_stats()
    assert stats.tokens == n_tokens
    assert 384 <= stats.slots <= stats.capacity == 512
    # every compression frees 128 slots, so there is one per 128 tokens after the first 384
    assert abs(stats.compressions - (n_tokens - 384) / 128) <= 12
    assert stats.kv_bytes * 100 == stats.stock_kv_bytes
    # flat: what the process holds after the first tenth is what it holds at the end
    assert max(resident[1:]) - resident[1] <= 4 << 20
    llm.close()
