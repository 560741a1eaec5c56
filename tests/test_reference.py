"""Properties of the algorithm, proven on its NumPy form. The native code is held against that form elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from groups import random_group

from asymkv_gguf import reference
from asymkv_gguf.reference import KEY_WEIGHTS, ONLY_EVICT, SCORES, KeyWeights, Op, Params, Score

EVERY = [(score, key_weights) for score in SCORES for key_weights in KEY_WEIGHTS]
MERGING = [(score, key_weights) for score, key_weights in EVERY if score not in ONLY_EVICT]


@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize(("score", "key_weights"), MERGING)
def test_merging_slots_with_equal_keys_changes_no_output(score: Score, key_weights: KeyWeights, n_heads: int) -> None:
    group = random_group(40, n_heads=n_heads, sinks=2, recent=6)
    keys, positions = group.keys.copy(), group.positions.copy()
    keys[2:34], positions[2:34] = keys[2], positions[2]
    group = replace(group, keys=keys, positions=positions)
    merged = reference.compress(group, Params(score=score, key_weights=key_weights, evict=False), 12).group
    assert len(merged.positions) == 12
    np.testing.assert_allclose(reference.attention(merged), reference.attention(group), rtol=0, atol=1e-12)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_the_mean_form_of_attention_is_the_papers_sum_form(softcap: float) -> None:
    """Storing mean values and adding ln c is the paper's sum of values over a denominator that counts c."""
    group = random_group(softcap=softcap)
    queries_see = group.positions <= group.query_positions[:, None]
    scores = group.scale * np.einsum("hrd,nhd->hrn", group.queries, group.keys)
    weights = np.exp(softcap * np.tanh(scores / softcap) if softcap else scores) * queries_see
    sums = group.values * group.cardinalities[:, None, None]
    paper = np.einsum("hrn,nhd->hrd", weights, sums) / (weights @ group.cardinalities)[..., None]
    np.testing.assert_allclose(reference.attention(group), paper, rtol=1e-12)


@pytest.mark.parametrize("max_cardinality", [0, 5])
@pytest.mark.parametrize(("score", "key_weights"), EVERY)
def test_cardinality_is_conserved_and_protected_slots_stay(score: Score, key_weights: KeyWeights, max_cardinality: int) -> None:
    group = random_group(90, merged=False)
    params = Params(score=score, key_weights=key_weights, max_cardinality=max_cardinality)
    ops, kept, after, n_lost = reference.compress(group, params, 30)
    assert len(kept) == len(after.positions) == 30
    assert len(ops) == 60
    assert int(after.cardinalities.sum()) + n_lost == int(group.cardinalities.sum())
    assert np.all(np.diff(after.positions) > 0)
    if max_cardinality:
        assert after.cardinalities.max() <= max_cardinality
    gone = [op.i if op.j is None else op.j for op in ops]
    assert sorted(gone + kept) == list(range(90))  # no slot leaves twice
    for i in np.flatnonzero(group.is_protected):
        at = kept.index(int(i))
        np.testing.assert_array_equal(after.keys[at], group.keys[i])
        np.testing.assert_array_equal(after.values[at], group.values[i])
        assert after.cardinalities[at] == group.cardinalities[i]


def test_no_value_and_no_mass_is_lost_when_slots_are_only_merged() -> None:
    group = random_group()
    after = reference.compress(group, Params(score="output", accumulate=0.5), 30).group
    mass = 0.5 * group.scores + reference.observe(group).mass
    assert after.scores.sum() == pytest.approx(mass.sum(), rel=1e-12)
    np.testing.assert_allclose(
        np.einsum("n,nhd->hd", after.cardinalities, after.values),
        np.einsum("n,nhd->hd", group.cardinalities, group.values),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("score", SCORES)
def test_every_step_of_a_plan_is_the_cheapest_one(score: Score) -> None:
    group, params = random_group(), Params(score=score)
    for cost, cheapest in reference.replay(group, params, reference.plan(group, params, 30)):
        assert cost == cheapest


def test_replay_tells_a_plan_that_is_not_greedy() -> None:
    group, params = random_group(), Params(score="mass")
    merges = reference.costs(group, params)[0]
    dearest = int(np.argmax(np.where(np.isfinite(merges), merges, -1)))
    ((cost, cheapest),) = reference.replay(group, params, [Op(dearest, dearest + 1, 0.0)])
    assert cost > cheapest


def test_exact_costs_are_the_change_of_the_observed_outputs() -> None:
    """Evicting a slot, and merging a pair whose keys are equal, by brute force."""
    group = random_group(30, n_heads=2, recent=6, merged=False)
    keys, positions = group.keys.copy(), group.positions.copy()
    keys[10], positions[10] = keys[11], positions[11]
    group = replace(group, keys=keys, positions=positions)
    outputs = reference.attention(group)
    merge, evict = reference.costs(group, Params(score="exact"))
    for i in range(4, 20):
        left = np.arange(30) != i
        parts = ("keys", "values", "positions", "cardinalities", "scores", "is_protected", "is_expired")
        without = replace(group, **{name: getattr(group, name)[left] for name in parts})
        change = np.linalg.norm(reference.attention(without) - outputs, axis=-1).sum()
        assert evict[i] == pytest.approx(change, rel=1e-9)
    assert merge[10] == pytest.approx(0, abs=1e-9)
    assert np.isinf(merge[~np.append(~group.is_protected[:-1] & ~group.is_protected[1:], False)]).all()


@pytest.mark.parametrize("max_cardinality", [0, 3])
@pytest.mark.parametrize("key_weights", ["mean", "mass", "slimmer"])
def test_exact_costs_of_merging_are_the_change_of_the_observed_outputs(key_weights: KeyWeights, max_cardinality: int) -> None:
    """By brute force. Without RoPE, and with queries that see all slots, the price is no estimate."""
    group = random_group(30, n_heads=2, n_rot=0, recent=6)
    group = replace(group, query_positions=np.full_like(group.query_positions, 10**6))
    params = Params(key_weights=key_weights, max_cardinality=max_cardinality, history=0)
    outputs, (merge, _) = reference.attention(group), reference.costs(group, params)
    for i in np.flatnonzero(np.isfinite(merge)):
        merged = reference.apply(group, params, [Op(int(i), int(i) + 1, 0.0)]).group
        change = np.linalg.norm(reference.attention(merged) - outputs, axis=-1).sum()
        assert merge[i] == pytest.approx(change, rel=1e-9)


def test_exact_merges_a_pair_of_equals() -> None:
    group = random_group(30, n_rot=0, recent=6, merged=False)
    keys, values = group.keys.copy(), group.values.copy()
    keys[10], values[10] = keys[11], values[11]
    (op,) = reference.plan(replace(group, keys=keys, values=values), Params(), 29)
    assert op[:2] == (10, 11)
    assert op.cost == pytest.approx(0, abs=1e-12)


def test_exact_keeps_what_earlier_queries_saw() -> None:
    """Of two slots that nobody looks at now, the one stays that was looked at; the older, the more it must have been."""
    group = random_group(30, n_rot=0, recent=6, merged=False)
    keys, queries, scores = group.keys.copy(), group.queries.copy(), np.zeros(30)
    queries[..., 0], keys[..., 0], keys[[10, 20], :, 0] = 1, 0, -1e6
    values = group.values.copy()
    values[20] = values[10]
    group = replace(group, keys=keys, values=values, queries=queries, scores=scores)

    def evicted(score_10: float, score_20: float, room: int) -> int:
        scores[10], scores[20] = score_10, score_20
        (op,) = reference.plan(group, Params(key_weights="mean", room=room, merge=False), 29)
        return op.i

    assert [evicted(0, 1, 512), evicted(1, 0, 512)] == [10, 20]
    assert [evicted(1.1, 1, 512), evicted(1.1, 1, 1)] == [20, 10]


def test_exact_evicts_what_nobody_sees() -> None:
    group = random_group(30, n_rot=0, recent=6, merged=False)
    keys, queries = group.keys.copy(), group.queries.copy()
    queries[..., 0], keys[..., 0], keys[20, :, 0] = 1, 0, -1e6
    assert reference.plan(replace(group, keys=keys, queries=queries), Params(key_weights="mean"), 29) == [Op(20, None, 0.0)]


def test_probabilities_that_underflow_have_a_price() -> None:
    """A subnormal probability divided by a cardinality is 0, and 0 * ln 0 was NaN."""
    group = random_group(30, n_rot=0, recent=6)
    keys, queries, cardinalities = 0 * group.keys, 0 * group.queries, group.cardinalities.copy()
    queries[..., 0], keys[10, :, 0], cardinalities[10] = 1, -743, 7
    group = replace(group, keys=keys, queries=queries, cardinalities=cardinalities, scores=0 * group.scores, scale=1.0)
    assert reference.observe(group).a[..., 10].max() > 0
    merge, evict = reference.costs(group, Params(key_weights="mass"))
    assert not np.isnan(merge).any()
    assert not np.isnan(evict).any()


@pytest.mark.parametrize("score", ["mass", "output", "exact"])
def test_what_an_operation_costs_a_layer_is_the_sum_over_its_heads(score: Score) -> None:
    layer = random_group(n_heads=3)
    heads = [
        replace(layer, keys=layer.keys[:, h : h + 1], values=layer.values[:, h : h + 1], queries=layer.queries[h : h + 1])
        for h in range(3)
    ]
    params = Params(score=score, key_weights="mean", accumulate=0.0)
    together, apart = reference.costs(layer, params), [reference.costs(head, params) for head in heads]
    np.testing.assert_allclose(together, np.sum(apart, axis=0), rtol=1e-12)


@pytest.mark.parametrize("neox", [False, True])
@pytest.mark.parametrize("n_rot", [0, 16, 32])
def test_rotations_add_up_and_keep_scores_relative(n_rot: int, neox: bool) -> None:
    group = random_group(n_rot=n_rot, neox=neox)
    args = (group.rope_freqs, n_rot, neox)
    twice = reference.rotate(reference.rotate(group.keys, 5.5, *args), -2.25, *args)
    np.testing.assert_allclose(twice, reference.rotate(group.keys, 3.25, *args), atol=1e-12)
    moved_keys, moved_queries = reference.rotate(group.keys, 7.0, *args), reference.rotate(group.queries, 7.0, *args)
    np.testing.assert_allclose(
        np.einsum("hrd,nhd->hrn", moved_queries, moved_keys),
        np.einsum("hrd,nhd->hrn", group.queries, group.keys),
        atol=1e-10,
    )
    np.testing.assert_array_equal(reference.rotate(group.keys, 3.0, *args)[..., n_rot:], group.keys[..., n_rot:])


@pytest.mark.parametrize("key_weights", KEY_WEIGHTS)
@pytest.mark.parametrize("shape", [{}, {"neox": True}, {"n_rot": 16, "neox": True}])
def test_a_key_that_occurs_twice_merges_into_itself_at_the_position_between(
    shape: dict[str, Any], key_weights: KeyWeights
) -> None:
    group = random_group(**shape)
    args = (group.rope_freqs, group.n_rot, group.rope_neox)
    bare, keys = group.keys[30], group.keys.copy()
    keys[30:32] = reference.rotate(keys[[30, 30]], group.positions[30:32, None] - group.positions[30], *args)
    result = reference.apply(replace(group, keys=keys), Params(key_weights=key_weights), [Op(30, 31, 0.0)])
    between = group.positions[30:32] @ group.cardinalities[30:32] / group.cardinalities[30:32].sum()
    assert result.group.positions[30] == pytest.approx(between, rel=1e-12)
    np.testing.assert_allclose(result.group.keys[30], reference.rotate(bare, between - group.positions[30], *args), atol=1e-12)


@pytest.mark.parametrize("key_weights", KEY_WEIGHTS)
@pytest.mark.parametrize("shape", [{}, {"neox": True}, {"n_rot": 16, "neox": True}])
def test_only_relative_positions_matter(shape: dict[str, Any], key_weights: KeyWeights) -> None:
    """A group that stands elsewhere in the text has the same plan, and its merged keys are those, moved there."""
    group, params, by = random_group(**shape), Params(key_weights=key_weights), 1000
    args = (group.rope_freqs, group.n_rot, group.rope_neox)
    elsewhere = replace(
        group,
        keys=reference.rotate(group.keys, by, *args),
        queries=reference.rotate(group.queries, by, *args),
        positions=group.positions + by,
        query_positions=group.query_positions + by,
    )
    here, there = reference.compress(group, params, 30), reference.compress(elsewhere, params, 30)
    assert [op[:2] for op in there.ops] == [op[:2] for op in here.ops]
    np.testing.assert_allclose(there.group.keys, reference.rotate(here.group.keys, by, *args), atol=1e-9)


def test_equal_costs_are_merged_first_and_from_the_left() -> None:
    group = random_group(20, recent=6)
    same = replace(group, values=0 * group.values)
    assert [op[:2] for op in reference.plan(same, Params(), 16)] == [(3, 4), (3, 5), (3, 6), (3, 7)]


def test_the_papers_score_is_mass_times_cardinality_fading_with_the_slot() -> None:
    group, decay = random_group(), 20.0
    merge, _ = reference.costs(group, Params(score="mass", decay=decay, accumulate=0.5))
    mass = 0.5 * group.scores + reference.observe(group).mass
    i = 10
    expected = (mass[i] + mass[i + 1]) * (group.cardinalities[i] + group.cardinalities[i + 1]) * np.exp(-(i - 3) / decay)
    assert merge[i] == pytest.approx(expected, rel=1e-12)


def test_a_query_that_sees_no_slot_counts_for_nothing() -> None:
    group = random_group()
    blind = replace(group, query_positions=np.full_like(group.query_positions, -1))
    seen = reference.observe(blind)
    assert not seen.mass.any()
    assert not seen.o.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "best"}, "unknown score"),
        ({"key_weights": "best"}, "unknown score"),
        ({"max_cardinality": -1}, "must not be negative"),
        ({"decay": -1.0}, "must not be negative"),
        ({"accumulate": 1.5}, r"in \[0, 1\]"),
        ({"history": -1.0}, "must not be negative"),
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Params(**changes)  # type: ignore[arg-type]


def test_groups_that_contradict_themselves_are_refused() -> None:
    group = random_group()
    with pytest.raises(ValueError, match="scores must have shape"):
        replace(group, scores=group.scores[:-1])
    with pytest.raises(ValueError, match="n_rot must be even"):
        replace(group, n_rot=33, rope_freqs=np.zeros(16))
    with pytest.raises(ValueError, match="positions must ascend"):
        replace(group, positions=group.positions[::-1])


def test_a_plan_that_protected_slots_rule_out_is_refused() -> None:
    group = random_group()
    with pytest.raises(ValueError, match="at least 16"):
        reference.plan(group, Params(score="mass"), 15)
    assert len(reference.plan(group, Params(score="exact"), 15)) == 65
    with pytest.raises(ValueError, match="not allowed now"):
        reference.apply(group, Params(), [Op(0, 1, 0.0)])
