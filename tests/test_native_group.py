"""The native planner against the NumPy reference: same statistics, same plan, same merged group, on random groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from groups import random_group

from asymkv_gguf import reference
from asymkv_gguf.errors import ParameterError
from asymkv_gguf.llama import _api
from asymkv_gguf.native.groups import compress_group, native_params
from asymkv_gguf.reference import KEY_WEIGHTS, ONLY_EVICT, SCORES, Group, KeyWeights, Params, Score

SHAPES: dict[str, dict[str, Any]] = {
    "norm": {},
    "neox": {"neox": True, "n": 130, "n_queries": 40},
    "partial": {"n_rot": 16, "neox": True},
    "no-rope": {"n_rot": 0},
    "softcap": {"softcap": 5.0},
    "odd-sizes": {"head_k": 20, "head_v": 13, "n_rot": 10, "n_queries": 7},
    "many-queries": {"n_queries": 150, "n": 60},
    "learned-sinks": {"learned_sinks": True, "n_gqa": 4},
}


@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("key_weights", KEY_WEIGHTS)
@pytest.mark.parametrize("score", SCORES)
def test_native_observes_plans_and_merges_as_the_reference_does(
    score: Score, key_weights: KeyWeights, shape: str, n_heads: int
) -> None:
    group = random_group(n_heads=n_heads, seed=11, **SHAPES[shape])
    params = Params(score=score, key_weights=key_weights, accumulate=0.5, seed=3)
    n_keep = 32
    native = compress_group(_api, group, params, n_keep)

    np.testing.assert_allclose(native.mass, reference.observe(group).mass, rtol=1e-4, atol=1e-7)
    merge, evict = reference.costs(group, params)
    np.testing.assert_allclose(native.cost_merge, merge, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(native.cost_evict, evict, rtol=1e-4, atol=1e-7)

    # greedy in the reference's eyes, step by step: rounding may only decide between equals
    for cost, cheapest in reference.replay(group, params, native.ops):
        assert cost <= cheapest * (1 + 1e-4) + 1e-9

    expected = reference.compress(group, params, n_keep)
    assert [op[:2] for op in native.ops] == [op[:2] for op in expected.ops]
    assert native.kept.tolist() == expected.kept
    assert native.cardinalities.tolist() == expected.group.cardinalities.tolist()
    np.testing.assert_allclose(native.positions, expected.group.positions, rtol=1e-12)
    np.testing.assert_allclose(native.scores, expected.group.scores, rtol=1e-4)
    np.testing.assert_allclose(native.keys, expected.group.keys, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(native.values, expected.group.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "exact", "evict": False},
        {"score": "exact", "max_cardinality": 5},
        {"score": "mass", "max_cardinality": 5, "decay": 20.0},
        {"score": "output", "max_cardinality": 3},
        {"score": "random", "seed": 12345678901234567890},
        {"score": "random", "seed": 12345678901234567890, "merge": False},
        {"score": "exact", "merge": False},
    ],
)
def test_options_mean_the_same_in_both(changes: dict[str, Any]) -> None:
    group, params = random_group(seed=5), Params(**changes)
    native, expected = compress_group(_api, group, params, 25), reference.compress(group, params, 25)
    assert [op[:2] for op in native.ops] == [op[:2] for op in expected.ops]
    assert native.cardinalities.tolist() == expected.group.cardinalities.tolist()
    n_tokens = int(group.cardinalities.sum())
    assert int(native.cardinalities.sum()) == n_tokens - expected.n_lost
    np.testing.assert_allclose(native.values, expected.group.values, rtol=1e-4, atol=1e-5)


def _with_protected_islands(group: Group) -> Group:
    return replace(group, is_protected=group.is_protected | (np.arange(len(group.positions)) % 9 == 5))


def _seen_in_part(group: Group) -> Group:
    """Queries all along the text, the first of them before every slot."""
    return replace(group, query_positions=np.linspace(-1, group.positions[-1], len(group.query_positions)).astype(np.int64))


def _at_equal_positions(group: Group) -> Group:
    return replace(group, positions=np.floor(group.positions / 3) * 3)


def _without_some_sinks(group: Group) -> Group:
    logits = np.linspace(-40.0, 40.0, group.queries[..., 0].size).reshape(group.queries.shape[:2])
    logits[:, ::5] = -np.inf
    return replace(_seen_in_part(group), sink_logits=logits.astype(np.float32).astype(np.float64))


def _heavily_merged(group: Group) -> Group:
    return replace(group, cardinalities=np.where(group.is_protected, 1, group.cardinalities * 997))


def _with_expired(group: Group) -> Group:
    return replace(group, is_expired=np.arange(len(group.positions)) % 7 == 2)


@pytest.mark.parametrize(
    "changed",
    [_with_protected_islands, _seen_in_part, _at_equal_positions, _without_some_sinks, _heavily_merged, _with_expired],
)
@pytest.mark.parametrize(
    ("score", "key_weights"), [("mass", "slimmer"), ("output", "mass"), ("exact", "mass"), ("exact", "fisher")]
)
def test_unusual_groups_are_compressed_alike(changed: Callable[[Group], Group], score: Score, key_weights: KeyWeights) -> None:
    group, params = changed(random_group(160, n_heads=2, n_queries=64, seed=7)), Params(score=score, key_weights=key_weights)
    native, expected = compress_group(_api, group, params, 60), reference.compress(group, params, 60)
    assert [op[:2] for op in native.ops] == [op[:2] for op in expected.ops]
    assert native.cardinalities.tolist() == expected.group.cardinalities.tolist()
    np.testing.assert_allclose([op.cost for op in native.ops], [op.cost for op in expected.ops], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(native.positions, expected.group.positions, rtol=1e-12)
    np.testing.assert_allclose(native.keys, expected.group.keys, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(native.values, expected.group.values, rtol=1e-4, atol=1e-5)


def test_what_is_expired_leaves_first_and_the_oldest_before_others() -> None:
    group = random_group(30, sinks=3, recent=6)
    group = replace(group, is_expired=np.isin(np.arange(30), [1, 4, 8, 9, 27]))  # 1 and 27 are protected
    native = compress_group(_api, group, Params(), 28)
    assert [tuple(op) for op in native.ops] == [(4, None, -1.0), (8, None, -1.0)]
    native = compress_group(_api, group, Params(), 26)
    assert [op.i for op in native.ops[:3]] == [4, 8, 9]
    assert native.ops[3].cost > 0
    assert {1, 27} < set(native.kept.tolist())
    merged = compress_group(_api, group, Params(evict=False), 28)  # where nothing may leave, nothing expires
    assert all(op.j is not None for op in merged.ops)


def test_equal_costs_are_merged_first_and_from_the_left() -> None:
    group = random_group(20, recent=6)
    native = compress_group(_api, replace(group, values=0 * group.values), Params(), 16)
    assert [op[:2] for op in native.ops] == [(3, 4), (3, 5), (3, 6), (3, 7)]


@pytest.mark.parametrize("seed", [2, 4, 5])
def test_what_a_query_does_not_see_stays_unseen_through_merges(seed: int) -> None:
    """The logit of a merged slot is carried on, and not derived anew from a probability that has underflowed."""
    group, params = random_group(90, n_queries=48, recent=40, seed=seed), Params(key_weights="fisher", evict=False)
    group = replace(group, is_protected=np.zeros(90, bool))  # even slots that come after the queries
    native = compress_group(_api, group, params, 4)
    assert [op[:2] for op in native.ops] == [op[:2] for op in reference.plan(group, params, 4)]


@pytest.mark.parametrize("gap", [15.0, 25.0, 40.0, 80.0])
def test_a_slot_with_all_of_a_querys_attention_is_kept(gap: float) -> None:
    """Half of the queries look at one slot alone; the exact price of losing it is 0/0 from some gap of logits on."""
    group = random_group(60, n_rot=0, merged=False)
    keys, queries = 0.1 * group.keys, 0.1 * group.queries
    keys[..., 0], queries[..., 0] = 0, 0
    keys[30, 0, 0], queries[0, ::2, 0] = 8.0, gap / (8.0 * group.scale)
    group = replace(group, keys=keys, queries=queries)
    native, expected = compress_group(_api, group, Params(), 30), reference.compress(group, Params(), 30)
    for kept, cardinalities in ((native.kept.tolist(), native.cardinalities), (expected.kept, expected.group.cardinalities)):
        assert 30 in kept
        assert cardinalities[kept.index(30)] == 1
    changed = reference.attention(expected.group)[0, ::2] - reference.attention(group)[0, ::2]
    assert np.abs(changed).max() < 1e-3


@pytest.mark.parametrize("key_weights", KEY_WEIGHTS)
@pytest.mark.parametrize("score", [score for score in SCORES if score not in ONLY_EVICT])
def test_groups_without_queries_merge_evenly(score: Score, key_weights: KeyWeights) -> None:
    """Nothing tells slots apart, so none may take in all others."""
    group, params = random_group(n_queries=0, merged=False), Params(score=score, key_weights=key_weights)
    native, expected = compress_group(_api, group, params, 32), reference.compress(group, params, 32)
    assert [op[:2] for op in native.ops] == [op[:2] for op in expected.ops]
    np.testing.assert_allclose(native.mass, 1 / 80, rtol=1e-6)
    if score != "random":
        assert native.cardinalities.max() <= 6
        assert int(native.cardinalities.sum()) == 80


def test_groups_without_queries_that_may_not_merge_evict_the_least_attention_so_far() -> None:
    group, params = random_group(n_queries=0), Params(score="exact", merge=False)
    native, expected = compress_group(_api, group, params, 32), reference.compress(group, params, 32)
    assert native.kept.tolist() == expected.kept
    gone = np.setdiff1d(np.arange(80), expected.kept)
    unprotected = [i for i in expected.kept if not group.is_protected[i]]
    assert group.scores[gone].max() < group.scores[unprotected].min()


@pytest.mark.parametrize("score", ONLY_EVICT)
def test_scores_that_only_evict_keep_slots_as_they_are(score: Score) -> None:
    for n_queries in (24, 0):
        group = random_group(n_queries=n_queries)
        native, expected = (
            compress_group(_api, group, Params(score=score), 32),
            reference.compress(group, Params(score=score), 32),
        )
        assert native.kept.tolist() == expected.kept
        assert all(op.j is None for op in native.ops)
        assert native.cardinalities.tolist() == group.cardinalities[expected.kept].tolist()
        np.testing.assert_array_equal(native.keys, group.keys[expected.kept].astype(np.float32))
        np.testing.assert_array_equal(native.values, group.values[expected.kept].astype(np.float32))


def test_keeping_all_slots_changes_nothing() -> None:
    group = random_group()
    for n_keep in (80, 500):
        native = compress_group(_api, group, Params(), n_keep)
        assert native.ops == []
        assert native.kept.tolist() == list(range(80))
        np.testing.assert_array_equal(native.keys, group.keys.astype(np.float32))


def test_what_protected_slots_rule_out_is_refused_in_one_sentence() -> None:
    group = random_group()
    for score in ("mass", "output", "random"):
        with pytest.raises(ParameterError, match="cannot keep only 15 slots: 16 are protected or have no neighbour"):
            compress_group(_api, group, Params(score=score), 15)
    with pytest.raises(ParameterError, match="cannot keep only 14 slots"):
        compress_group(_api, group, Params(score="exact"), 14)
    with pytest.raises(ParameterError, match="cannot keep no slot at all"):
        compress_group(_api, group, Params(score="exact"), 0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_slots", 0, "at least one slot"),
        ("head_v", 0, "at least one slot, head and channel"),
        ("n_rot", 33, "n_rot = 33"),
        ("n_rot", 64, "at most head_k = 32"),
        ("keys", None, "array of the group is missing"),
        ("rope_freqs", None, "array of the group is missing"),
        ("queries", None, "array of the group is missing"),
        ("size", 8, "different versions"),
    ],
)
def test_groups_that_cannot_be_right_are_refused(field: str, value: int | None, message: str) -> None:
    struct, arrays = _native_group()
    setattr(struct, field, _api.ffi.NULL if value is None else value)
    with pytest.raises(ParameterError, match=message):
        _api.check(_api.lib.asymkv_compress_group(native_params(_api, Params()), struct, 30, _api.new("result")))
    assert arrays


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cardinalities", {5: 0}, "slot 5 has cardinality 0"),
        ("positions", {5: 0.0}, "slot 5 stands before its left neighbour"),
        ("positions", {5: np.nan}, "slot 5 has a position that is not a finite number, at most 2\\^31"),
        ("scores", {7: np.inf}, "slot 7 has a score that is not a finite number, 0 to 1e30"),
        ("keys", {9: np.nan}, "have to be finite numbers"),
        ("queries", {0: np.inf}, "have to be finite numbers"),
        ("sink_logits", {0: np.nan}, "sink_logits have to be numbers, at most 2\\^24 from 0, or -infinity"),
        ("sink_logits", {0: np.inf}, "sink_logits have to be numbers"),
    ],
)
def test_slots_that_cannot_be_right_are_named(name: str, change: dict[int, float], message: str) -> None:
    struct, arrays = _native_group()
    for index, value in change.items():
        arrays[name][index] = value
    with pytest.raises(ParameterError, match=message):
        _api.check(_api.lib.asymkv_compress_group(native_params(_api, Params()), struct, 30, _api.new("result")))


def test_results_of_another_version_are_refused() -> None:
    struct, _arrays = _native_group()
    result = _api.new("result")
    result.size = 1
    with pytest.raises(ParameterError, match="different versions"):
        _api.check(_api.lib.asymkv_compress_group(native_params(_api, Params()), struct, 30, result))


def test_a_null_result_array_is_skipped() -> None:
    struct, _arrays = _native_group()
    result = _api.new("result")
    _api.check(_api.lib.asymkv_compress_group(native_params(_api, Params()), struct, 30, result))
    assert result.n_ops == result.n_merges + result.n_evictions == 50


def _native_group() -> tuple[Any, dict[str, Any]]:
    """A valid struct asymkv_group of 80 slots, and the arrays it points to."""
    from asymkv_gguf.native.groups import _GROUP_TYPES, _point

    group = random_group(learned_sinks=True)
    arrays = {name: np.ascontiguousarray(getattr(group, name), dtype) for name, dtype in _GROUP_TYPES.items()}
    struct = _api.new("group")
    struct.n_slots, struct.n_heads, struct.n_queries = 80, 1, 24
    struct.head_k, struct.head_v, struct.n_rot, struct.scale = 32, 32, 32, group.scale
    _point(_api, struct, arrays)
    return struct, arrays
