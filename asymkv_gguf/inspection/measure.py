"""Reads a text into a cache that holds all of it, compares its slots, then compresses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from ..config import AsymKVConfig
from ..errors import ParameterError
from ..llama import Llama, _api
from ..native.groups import read_group
from .report import Head, Report
from .statistics import LEAST_SLOTS, is_comparable, likeness

COMPRESSION = 8  # unless a budget is given


def reading_config(config: AsymKVConfig, n_tokens: int, n_batch: int = 1) -> AsymKVConfig:
    """`config`, with a budget that holds a text of `n_tokens`."""
    return config.replace(budget=max(n_tokens, config.sinks + config.recent + n_batch))


def inspect(llm: Llama, tokens: Sequence[int], budget: int | None = None, seed: int = 0) -> Report:
    """Reads `tokens` with an empty `llm` of a `reading_config`, and compresses them to `budget` slots (default: an eighth).

    ValueError with one sentence where there is nothing to compare or to compress.
    """
    config = llm.asymkv
    if config is None or config.budget < len(tokens) or llm.n_tokens:
        raise ValueError(f"the cache must be a merged one, empty, and hold {len(tokens):,} slots; open it with reading_config")
    budget = _check(config, len(tokens), budget)
    llm.eval(tokens)
    stats = llm.asymkv_stats()
    heads: list[Head] = []
    n_pairs = n_queries = 0
    for layer in range(stats.layers):
        for group in range(stats.groups):
            try:
                arrays = read_group(_api, llm.ctx, layer, group)
            except ParameterError:  # this layer has fewer KV heads than others
                break
            n_pairs, n_queries = int(is_comparable(arrays).sum()) - 1, len(set(arrays.query_positions.tolist()))
            heads += [Head(layer, group + h, group, one) for h, one in enumerate(likeness(arrays, seed))]
    llm.asymkv_compress(budget)
    after = llm.asymkv_stats()
    slots: dict[tuple[int, int], tuple[npt.NDArray[Any], int]] = {}
    for head in heads:
        at = (head.layer, head.group)
        if at not in slots:
            slots[at] = (llm.asymkv_slots(*at), llm.asymkv_lost(*at))
        head.slots, head.n_lost = slots[at]
    return Report(
        config=config,
        n_tokens=len(tokens),
        n_pairs=n_pairs,
        n_queries=n_queries,
        n_slots=after.slots,
        merges=after.merges - stats.merges,
        evictions=after.evictions - stats.evictions,
        seed=seed,
        heads=heads,
    )


def _check(config: AsymKVConfig, n_tokens: int, budget: int | None) -> int:
    """The slots to keep."""
    least = config.sinks + config.recent + LEAST_SLOTS
    if n_tokens < least:
        raise ValueError(
            f"the text has {n_tokens:,} tokens, too few for {config.sinks} sinks, {config.recent} recent tokens and "
            f"{LEAST_SLOTS} to compare; give a text of {least:,} or more, or lower sinks or recent"
        )
    if budget is None:
        return max(n_tokens // COMPRESSION, config.sinks + config.recent + 1)
    if budget >= n_tokens:
        raise ValueError(
            f"a budget of {budget:,} slots holds the whole text, {n_tokens:,} tokens; lower the budget, or give a longer text"
        )
    return config.replace(budget=budget).budget
