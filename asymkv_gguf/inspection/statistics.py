"""How alike adjacent slots are, and for comparison slots paired at random. Pure NumPy, from one group of a cache.

Only slots that may be merged count, neither sinks nor recent ones; every observed query sees all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..reference import Floats, Group, Ints, observe, rotate

LEAST_SLOTS = 16  # fewer say nothing
TOLERABLE_SIGMA = 0.9  # a pair whose logit gap varies less is better merged than evicted
_TINY = 1e-30


class Pairs(NamedTuple):
    """Slots `left[i]` and `right[i]` are compared."""

    left: Ints
    right: Ints


@dataclass(frozen=True)
class Contrast:
    """The mean over adjacent slots, and over as many random pairs. NaN where nothing varies."""

    adjacent: float
    random: float


@dataclass(frozen=True)
class Likeness:
    """Adjacent slots of one KV head, or the mean over several."""

    attention: Contrast  # Spearman over slots: are a query's favourites neighbours? mean over queries (arXiv 2506.05410)
    response: Contrast  # Spearman over queries: do the same queries favour both slots? mean over pairs
    keys: Contrast  # cosine, both rotated to one position
    values: Contrast  # cosine
    sigma: Contrast  # standard deviation over queries of the two logits' difference, mean over pairs
    tolerable: Contrast  # share of pairs whose sigma is less than TOLERABLE_SIGMA

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        return {
            name: {kind: None if np.isnan(value) else value for kind, value in vars(contrast).items()}
            for name, contrast in vars(self).items()
        }


NAMES = tuple(Likeness.__dataclass_fields__)


def mean(several: list[Likeness]) -> Likeness:
    """The mean of every number, without those that are NaN."""
    return Likeness(**{name: _mean([getattr(one, name) for one in several]) for name in NAMES})


def adjacent(n: int) -> Pairs:
    slots = np.arange(n)
    return Pairs(slots[:-1], slots[1:])


def at_random(n: int, seed: int = 0) -> Pairs:
    """n - 1 pairs of slots that are not adjacent."""
    rng = np.random.default_rng(seed)
    left = np.arange(n - 1)
    right = (left + rng.integers(2, n - 1, n - 1)) % n  # never left, nor its neighbours
    return Pairs(left, right)


def is_comparable(group: Group) -> Any:
    """[n], whether a slot may be merged, and every observed query sees it."""
    return ~group.is_protected & (group.positions <= group.query_positions.min(initial=np.iinfo(np.int64).max))


def likeness(group: Group, seed: int = 0) -> list[Likeness]:
    """Of each KV head of a group that a cache holds. ValueError where there are too few slots or no queries."""
    is_open = is_comparable(group)
    n, n_queries = int(is_open.sum()), len(group.query_positions)
    if n < LEAST_SLOTS or n_queries == 0:
        raise ValueError(f"there are {n} slots to compare and {n_queries} observed queries; {LEAST_SLOTS} slots are needed")
    pairs = (adjacent(n), at_random(n, seed))
    keys, values = unrotated(group)[is_open], group.values[is_open]
    attention, scores = observe(group).a[:, :, is_open], logits(group)[:, :, is_open]
    # rows of a KV head are tokens x query heads; heads differ in what they look at, so that each is ranked for itself
    n_tokens = len(np.unique(group.query_positions))
    by_head = attention.reshape(len(attention), n_tokens, -1, n)  # [H, T, G, n]
    return [
        Likeness(
            attention=Contrast(*(_nanmean(spearman_over_slots(by_head[h], pair)) for pair in pairs)),
            response=Contrast(*(_nanmean(spearman_over_queries(by_head[h], pair)) for pair in pairs)),
            keys=Contrast(*(_nanmean(cosine(keys[:, h], pair)) for pair in pairs)),
            values=Contrast(*(_nanmean(cosine(values[:, h], pair)) for pair in pairs)),
            sigma=Contrast(*(_nanmean(logit_gap(scores[h], pair)) for pair in pairs)),
            tolerable=Contrast(*(_nanmean(logit_gap(scores[h], pair) < TOLERABLE_SIGMA) for pair in pairs)),
        )
        for h in range(len(attention))
    ]


def unrotated(group: Group) -> Floats:
    """Keys [n, H, dk] as at position 0."""
    return rotate(group.keys, -group.positions[:, None], group.rope_freqs, group.n_rot, group.rope_neox)


def logits(group: Group) -> Floats:
    """[H, R, n], without cardinalities, and of all slots. Not ln of the attention, which may underflow."""
    scores = group.scale * np.einsum("hrd,nhd->hrn", group.queries, group.keys)
    return np.asarray(group.softcap * np.tanh(scores / group.softcap) if group.softcap > 0 else scores)


def spearman_over_slots(attention: Floats, pairs: Pairs) -> Floats:
    """[T, G] of attention [T, G, n]: slots are ranked for each query, and the ranks of a pair's two slots compared."""
    of_slots = ranks(attention)
    return correlation(of_slots[..., pairs.left], of_slots[..., pairs.right])


def spearman_over_queries(attention: Floats, pairs: Pairs) -> Floats:
    """[G, n_pairs] of attention [T, G, n]: queries are ranked for each slot, and the ranks of a pair's two slots compared."""
    of_queries = ranks(np.moveaxis(attention, 0, -1))  # [G, n, T]
    return correlation(of_queries[:, pairs.left], of_queries[:, pairs.right])


def cosine(x: Floats, pairs: Pairs) -> Floats:
    """[n_pairs] of vectors [n, d]; NaN where one is nothing."""
    lengths = np.linalg.norm(x, axis=-1)
    products = (x[pairs.left] * x[pairs.right]).sum(axis=-1)
    return _divided(products, lengths[pairs.left] * lengths[pairs.right])


def logit_gap(scores: Floats, pairs: Pairs) -> Floats:
    """[n_pairs] of logits [R, n]: standard deviation over the queries of the difference of two slots' logits."""
    return np.asarray((scores[:, pairs.left] - scores[:, pairs.right]).std(axis=0))


def ranks(x: Floats) -> Floats:
    """Ranks from 0 along the last axis; what is equal shares its mean rank."""
    order = np.argsort(x, axis=-1, kind="stable")
    ascending = np.take_along_axis(x, order, axis=-1)
    at = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
    is_first = np.ones(x.shape, bool)
    is_first[..., 1:] = ascending[..., 1:] != ascending[..., :-1]
    is_last = np.ones(x.shape, bool)
    is_last[..., :-1] = is_first[..., 1:]
    first = np.maximum.accumulate(np.where(is_first, at, 0), axis=-1)
    last = np.minimum.accumulate(np.where(is_last, at, x.shape[-1])[..., ::-1], axis=-1)[..., ::-1]
    ranked = np.empty(x.shape)
    np.put_along_axis(ranked, order, (first + last) / 2, axis=-1)
    return ranked


def correlation(x: Floats, y: Floats) -> Floats:
    """Pearson's, along the last axis; NaN where one does not vary."""
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    return _divided((x * y).sum(axis=-1), np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)))


def _divided(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > _TINY))


def _nanmean(values: Any) -> float:
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")


def _mean(contrasts: list[Contrast]) -> Contrast:
    return Contrast(_nanmean([one.adjacent for one in contrasts]), _nanmean([one.random for one in contrasts]))
