"""PLAN for devices against the NumPy reference and the host's planner: same costs, same steps, same members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from device_kernels import SCORES, SHAPES, Layer, Library, Storage, two_groups

from asymkv_gguf import reference
from asymkv_gguf.llama import _api
from asymkv_gguf.native.groups import compress_group
from asymkv_gguf.reference import KEY_WEIGHTS, Group, KeyWeights, Op, Params, Score

N_KEEP = 32


def planned(library: Library, groups: list[Group], params: Params, n_keep: int = N_KEEP, **run: Any) -> Layer:
    layer = Layer(library, groups, params, n_keep, Storage())
    layer.run("observe", **run)
    layer.run("plan", **run)
    return layer


def steps(ops: list[Op]) -> list[tuple[int, int]]:
    """Sorted: of two that cost the same but for rounding either may come first."""
    return sorted((op.i, -1 if op.j is None else op.j) for op in ops)


def by_slot(ops: list[Op]) -> list[float]:
    return [op.cost for op in sorted(ops, key=lambda op: (op.i, -1 if op.j is None else op.j))]


def check(layer: Layer) -> None:
    """Step by step greedy in the reference's eyes, the same as its plan, and the same as the host's."""
    n, n_keep = layer.n, layer.n_keep
    for at, group in enumerate(layer.groups):
        ops, expected = layer.ops(at), reference.compress(group, layer.params, n_keep)
        for cost, cheapest in reference.replay(group, layer.params, ops):
            assert cost <= cheapest + 1e-4 * abs(cheapest) + 1e-8
        host = compress_group(_api, group, layer.params, n_keep)
        for others in (expected.ops, host.ops):
            assert steps(ops) == steps(others)
            np.testing.assert_allclose(by_slot(ops), by_slot(others), rtol=2e-4, atol=1e-6)

        kept = layer.section("plan", "kept", n_keep)[at].astype(int)
        assert kept.tolist() == expected.kept
        cards = layer.section("plan", "card", n)[at][kept]
        assert cards.tolist() == expected.group.cardinalities.tolist()
        whole, rest = (layer.section("plan", name, n)[at][kept].astype(np.float64) for name in ("pos", "pos_rest"))
        assert np.all((rest >= 0) & (rest < 1))
        np.testing.assert_allclose(whole + rest, expected.group.positions, rtol=0, atol=1e-4)
        np.testing.assert_allclose(layer.section("plan", "score", n)[at][kept], expected.group.scores, rtol=2e-4)
        assert int(layer.section("plan", "header", 2)[at, 1]) == sum(op.j is not None for op in expected.ops)


@pytest.mark.parametrize("key_weights", KEY_WEIGHTS)
@pytest.mark.parametrize("score", ["exact", "output", "mass"])
def test_plans_are_the_references(device_library: Library, score: Score, key_weights: KeyWeights) -> None:
    params = Params(score=score, key_weights=key_weights, accumulate=0.5)
    check(planned(device_library, two_groups(n_heads=2), params))


@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("score", ["exact", "mass"])
def test_groups_of_every_shape(device_library: Library, score: Score, shape: str, n_heads: int) -> None:
    params, groups = Params(score=score, accumulate=0.5), two_groups(n_heads=n_heads, **SHAPES[shape])
    check(planned(device_library, groups, params, n_keep=len(groups[0].positions) * 2 // 5))


@pytest.mark.parametrize("shape", ["neox", "several-tiles"])
@pytest.mark.parametrize("score", [score for score in SCORES if score in reference.ONLY_EVICT])
def test_scores_that_only_evict(device_library: Library, score: Score, shape: str) -> None:
    groups = [
        replace(group, query_positions=np.sort(group.query_positions // 4 * 4))
        for group in two_groups(n_heads=2, **SHAPES[shape])
    ]  # several queries of the last token
    check(planned(device_library, groups, Params(score=score)))


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "exact", "evict": False},
        {"score": "exact", "max_cardinality": 5},
        {"score": "mass", "max_cardinality": 5, "decay": 20.0},
        {"score": "output", "max_cardinality": 3},
        {"score": "exact", "merge": False},
    ],
)
def test_options_mean_the_same(device_library: Library, changes: dict[str, Any]) -> None:
    check(planned(device_library, two_groups(seed=5), Params(**changes), n_keep=25))


@pytest.mark.parametrize("shape", ["neox", "odd-sizes", "several-tiles"])
@pytest.mark.parametrize("key_weights", KEY_WEIGHTS)
@pytest.mark.parametrize("score", ["exact", "output", "mass", "h2o", "snapkv", "streaming"])
def test_costs_before_the_first_step(device_library: Library, score: Score, key_weights: KeyWeights, shape: str) -> None:
    layer = Layer(device_library, two_groups(**SHAPES[shape]), Params(score=score, key_weights=key_weights), N_KEEP, Storage())
    layer.run("observe")
    layer.run("costs")
    for at, group in enumerate(layer.groups):
        for name, expected in zip(("cost_merge", "cost_evict"), reference.costs(group, layer.params), strict=True):
            found = layer.section("plan", name, layer.n)[at].astype(np.float64)
            np.testing.assert_array_equal(found > 1e38, np.isinf(expected))
            np.testing.assert_allclose(np.where(found > 1e38, np.inf, found), expected, rtol=2e-4, atol=1e-6)


def _with_protected_islands(group: Group) -> Group:
    return replace(group, is_protected=group.is_protected | (np.arange(len(group.positions)) % 9 == 5))


def _seen_in_part(group: Group) -> Group:
    return replace(group, query_positions=np.linspace(-1, 200, len(group.query_positions)).astype(np.int64))


def _at_equal_positions(group: Group) -> Group:
    return replace(group, positions=np.floor(group.positions / 3) * 3)


def _heavily_merged(group: Group) -> Group:
    return replace(group, cardinalities=np.where(group.is_protected, 1, group.cardinalities * 997))


def _late(group: Group) -> Group:
    """Far behind what single precision tells apart."""
    at = 1_000_000
    return replace(group, positions=group.positions + at, query_positions=group.query_positions + at)


def _with_expired(group: Group) -> Group:
    return replace(group, is_expired=np.arange(len(group.positions)) % 7 == 2)


@pytest.mark.parametrize(
    "changed", [_with_protected_islands, _seen_in_part, _at_equal_positions, _heavily_merged, _with_expired, _late]
)
@pytest.mark.parametrize(
    ("score", "key_weights"), [("mass", "slimmer"), ("output", "mass"), ("exact", "mass"), ("exact", "fisher")]
)
def test_unusual_groups(device_library: Library, changed: Any, score: Score, key_weights: KeyWeights) -> None:
    groups = [changed(group) for group in two_groups(n=160, n_heads=2, n_queries=64, seed=7)]
    check(planned(device_library, groups, Params(score=score, key_weights=key_weights), n_keep=60))


def test_equal_costs_are_merged_first_and_from_the_left(device_library: Library) -> None:
    groups = [replace(group, values=0 * group.values) for group in two_groups(n=20, recent=6)]
    layer = planned(device_library, groups, Params(), n_keep=16)
    for at in range(2):
        assert [op[:2] for op in layer.ops(at)] == [(3, 4), (3, 5), (3, 6), (3, 7)]


@pytest.mark.parametrize("gap", [15.0, 25.0, 40.0, 80.0])
def test_a_slot_with_all_of_a_querys_attention_is_kept(device_library: Library, gap: float) -> None:
    groups = []
    for group in two_groups(n=60, n_rot=0, merged=False):
        keys, queries = 0.1 * group.keys, 0.1 * group.queries
        keys[..., 0], queries[..., 0] = 0, 0
        keys[30, 0, 0], queries[0, ::2, 0] = 8.0, gap / (8.0 * group.scale)
        groups.append(replace(group, keys=keys, queries=queries))
    layer = planned(device_library, groups, Params(), n_keep=30)
    for at in range(2):
        assert 30 in layer.section("plan", "kept", 30)[at]
        assert layer.section("plan", "card", 60)[at, 30] == 1


def test_every_token_is_counted_once(device_library: Library) -> None:
    layer = planned(device_library, two_groups(n=200), Params(evict=False), n_keep=50)
    for at, group in enumerate(layer.groups):
        kept = layer.section("plan", "kept", 50)[at].astype(int)
        following = layer.section("plan", "member_next", 200)[at].astype(int)
        weights = {name: layer.section("plan", name, 200)[at] for name in ("weight_k", "weight_v")}
        members = []
        for slot in kept:
            chain = [slot]
            while following[chain[-1]] >= 0:
                chain.append(following[chain[-1]])
            for weight in weights.values():
                np.testing.assert_allclose(weight[chain].sum(), 1, rtol=1e-5)
            shares = group.cardinalities[chain] / group.cardinalities[chain].sum()
            np.testing.assert_allclose(weights["weight_v"][chain], shares, rtol=1e-4)
            members += chain
        assert sorted(members) == list(range(200))


def test_what_protected_slots_rule_out_ends_the_plan(device_library: Library) -> None:
    layer = planned(device_library, two_groups(), Params(score="mass"), n_keep=14)
    assert [len(layer.ops(at)) for at in range(2)] == [64, 64]  # 16 are left: 15 protected ones, and one


@pytest.mark.parametrize("n_threads", [1, 7, 256])
@pytest.mark.parametrize("order", ["backward", "shuffled"])
def test_the_order_of_threads_changes_nothing(device_library: Library, order: str, n_threads: int) -> None:
    layers = [
        planned(device_library, two_groups(n_heads=2), Params(key_weights="slimmer"), n_threads=n_threads, order=given)
        for given in ("forward", order)
    ]
    np.testing.assert_array_equal(layers[0].plan, layers[1].plan)


def test_temporaries_of_an_8b_model_fit_into_64_mib(device_library: Library) -> None:
    """Llama-3.1-8B's layer at 4,096 slots and 512 more, some of its 8 plans at a time."""
    layer = Layer(device_library, two_groups(), Params(), N_KEEP, Storage())
    shape = {
        "n_slots": 4608,
        "n_keep": 4096,
        "n_gqa": 4,
        "n_observed": 32,
        "head_k": 128,
        "head_v": 128,
        "k_type": 1,
        "v_type": 1,
    }
    for name, value in shape.items():
        setattr(layer.native, name, value)
    floats = sum(device_library.layout(kind, layer.native)["n_floats"] for kind in ("seen", "plan"))
    n_bytes = 4 * floats + device_library.lib.akv_dev_rows_bytes(layer.native)
    assert 4 * n_bytes <= 64 << 20
