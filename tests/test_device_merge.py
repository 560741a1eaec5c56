"""MERGE for devices against the NumPy reference: merged rows to the tolerance of the type, moved ones byte for byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from device_kernels import SHAPES, STORAGES, Layer, Library, Storage, two_groups

from asymkv_gguf import reference
from asymkv_gguf.reference import KEY_WEIGHTS, Group, KeyWeights, Params

N_KEEP = 32

# largest error of a stored number, as a part of the largest of its row
TOLERANCE = {"F32": 3e-6, "F16": 5e-4, "BF16": 4e-3, "Q8_0": 1 / 127 / 2 * 1.2, "Q4_0": 1 / 8 / 2 * 1.2}


def merged(library: Library, groups: list[Group], params: Params, storage: Storage, n_keep: int = N_KEEP, **run: Any) -> Layer:
    layer = Layer(library, groups, params, n_keep, storage)
    for op in ("observe", "plan", "merge"):
        layer.run(op, **run)
    return layer


def check(layer: Layer) -> None:
    keys, values = layer.rows()
    n_heads, n_keep = layer.native.n_heads, layer.n_keep
    first = layer.N_BEFORE * n_heads
    before = layer.before
    np.testing.assert_array_equal(keys[:, :first], before[0][:, :first])  # another group's rows are left alone
    np.testing.assert_array_equal(values[:, :first], before[1][:, :first])
    np.testing.assert_array_equal(keys[n_keep:], before[0][n_keep:])
    for at, group in enumerate(layer.groups):
        heads = slice(first + at * n_heads, first + (at + 1) * n_heads)
        expected = reference.apply(group, layer.params, layer.ops(at))
        into = {op.i for op in layer.ops(at) if op.j is not None}
        assert into, "nothing was merged"
        is_merged = np.array([slot in into for slot in expected.kept])
        for found, wanted, old, kind in (
            (keys[:n_keep, heads], expected.group.keys, before[0][:, heads], layer.storage.k),
            (values[:n_keep, heads], expected.group.values, before[1][:, heads], layer.storage.v),
        ):
            moved = old[layer.cells[expected.kept]]
            np.testing.assert_array_equal(found[~is_merged], moved[~is_merged])
            # a transform spreads an error over its block
            error = np.sqrt(((found - wanted) ** 2).mean(axis=-1)) / np.abs(wanted).max(axis=-1)
            assert error.max() < TOLERANCE[kind]


@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("storage", list(STORAGES))
def test_caches_of_every_type_hold_what_the_reference_says(device_library: Library, storage: str, n_heads: int) -> None:
    stored = STORAGES[storage]
    groups = two_groups(n_gqa=stored.n_gqa, n_heads=n_heads, head_k=64, head_v=32, n_rot=64)
    check(merged(device_library, groups, Params(), stored))


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("key_weights", KEY_WEIGHTS)
def test_keys_are_weighed_and_rotated(device_library: Library, key_weights: KeyWeights, shape: str) -> None:
    groups = two_groups(n_heads=2, **SHAPES[shape])
    check(
        merged(device_library, groups, Params(key_weights=key_weights, evict=False), Storage(), len(groups[0].positions) // 2)
    )


def test_long_runs_become_one_slot(device_library: Library) -> None:
    layer = merged(device_library, two_groups(n=200), Params(score="mass", evict=False), Storage(), n_keep=20)
    check(layer)
    assert layer.section("plan", "card", 200)[0].max() > 10


def test_positions_that_single_precision_cannot_hold(device_library: Library) -> None:
    """Neighbours far behind in a text, and far from each other."""
    groups = [
        replace(group, positions=4_000_000 + 700 * group.positions, query_positions=4_000_000 + 700 * group.query_positions)
        for group in two_groups(neox=True)
    ]
    check(merged(device_library, groups, Params(evict=False), Storage("F16", "F16", "F16")))


def test_clipped_cardinalities(device_library: Library) -> None:
    check(merged(device_library, two_groups(n_heads=2), Params(max_cardinality=3), Storage()))


def test_evicted_slots_leave_the_others_as_they_are(device_library: Library) -> None:
    layer = merged(device_library, two_groups(), Params(score="h2o"), Storage("Q8_0", "Q8_0", "Q8_0", hadamard=32))
    for at, group in enumerate(layer.groups):
        kept = reference.apply(group, layer.params, layer.ops(at)).kept
        for found, old in zip(layer.rows(), layer.before, strict=True):
            np.testing.assert_array_equal(found[:N_KEEP, 1 + at], old[layer.cells[kept], 1 + at])


@pytest.mark.parametrize("n_threads", [1, 7, 256])
@pytest.mark.parametrize("order", ["backward", "shuffled"])
@pytest.mark.parametrize("storage", ["q8_0", "transposed"])
def test_the_order_of_threads_changes_nothing(device_library: Library, storage: str, order: str, n_threads: int) -> None:
    layers = [
        merged(device_library, two_groups(), Params(key_weights="fisher"), STORAGES[storage], n_threads=n_threads, order=given)
        for given in ("forward", order)
    ]
    np.testing.assert_array_equal(layers[0].k, layers[1].k)
    np.testing.assert_array_equal(layers[0].v, layers[1].v)
