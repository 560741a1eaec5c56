"""Random groups: the arrays that one plan reads, without any model."""

from __future__ import annotations

import numpy as np

from asymkv_gguf.reference import Group


def random_group(
    n: int = 80,
    *,
    n_heads: int = 1,
    n_queries: int = 24,
    head_k: int = 32,
    head_v: int = 32,
    n_rot: int = 32,
    neox: bool = False,
    softcap: float = 0.0,
    sinks: int = 3,
    recent: int = 12,
    merged: bool = True,
    learned_sinks: bool = False,
    n_gqa: int = 1,
    seed: int = 0,
) -> Group:
    """`merged`: a third of the slots stand for several tokens already, and scores have accumulated. `learned_sinks`: each of
    the `n_gqa` query heads of a KV head has one, which takes some or most of its queries' attention.

    Values are those of single precision, since the native side stores them so.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    is_protected = np.zeros(n, bool)
    is_protected[:sinks] = True
    is_protected[n - recent :] = True
    cardinalities = np.where(~is_protected & (rng.random(n) < (0.3 if merged else 0.0)), rng.integers(2, 7, n), 1)
    ends = np.cumsum(cardinalities)
    # neighbours are alike, as real keys are: each key is half its left neighbour
    keys = normal(n, n_heads, head_k)
    for i in range(1, n):
        keys[i] = (0.5 * keys[i - 1] + 0.8 * keys[i]).astype(np.float32)
    sink_logits = None
    if learned_sinks:
        of_heads = np.linspace(5.0, 9.0, n_heads * n_gqa).reshape(n_heads, n_gqa)
        sink_logits = of_heads[:, np.arange(n_queries) % n_gqa].astype(np.float32).astype(np.float64)
    return Group(
        keys=keys,
        values=normal(n, n_heads, head_v),
        queries=2 * normal(n_heads, n_queries, head_k),
        # the last queries stand among the recent slots, and do not see those after them
        query_positions=np.sort(rng.integers(ends[-1] - recent, ends[-1], n_queries)),
        positions=ends - (cardinalities + 1) / 2,
        cardinalities=cardinalities,
        scores=np.abs(normal(n)) * (1.0 if merged else 0.0),
        is_protected=is_protected,
        rope_freqs=(10000.0 ** (-2 * np.arange(n_rot // 2) / max(n_rot, 1))).astype(np.float32).astype(np.float64),
        rope_neox=neox,
        n_rot=n_rot,
        scale=float(np.float32(head_k**-0.5)),
        softcap=softcap,
        sink_logits=sink_logits,
    )
