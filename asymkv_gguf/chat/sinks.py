"""The system prompt lies in the sinks, so that it is never merged."""

from __future__ import annotations

from ..config import AsymKVConfig
from ..llama import Llama
from .prompt import n_system_tokens

_STEP = 8  # a prompt with another word in it needs no other cache


def with_protected_system(
    config: AsymKVConfig, llm: Llama, system: str, n_batch: int | None = None
) -> tuple[AsymKVConfig, str | None]:
    """`config` with enough sinks for the system prompt, and a sentence if the budget does not allow that many.

    At most half of the budget is spent, so that the conversation has the rest. Any `llm` with the model's vocabulary will do.
    """
    n_tokens = n_system_tokens(llm, system)
    wanted = max(config.sinks, -(-n_tokens // _STEP) * _STEP)
    limit = min(config.budget // 2, config.budget - config.recent - (n_batch or 1))
    if wanted <= max(limit, config.sinks):
        return config.replace(sinks=wanted), None
    sinks = max(limit, config.sinks)
    notice = f"the system prompt takes {n_tokens:,} tokens, of which the first {sinks:,} are never merged"
    return config.replace(sinks=sinks), f"{notice}; raise --asymkv-budget to {2 * wanted:,} or more to protect all of it"
