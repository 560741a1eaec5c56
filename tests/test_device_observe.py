"""OBSERVE for devices against the NumPy reference: a block's threads as fibers, in every order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from device_kernels import SHAPES, STORAGES, Layer, Library, Storage, two_groups

from asymkv_gguf import reference
from asymkv_gguf.reference import Floats, Params

N_KEEP = 32


def check(layer: Layer) -> None:
    """All that OBSERVE leaves, against the reference, to single precision."""
    p = layer.native
    n, n_rows = p.n_slots, p.n_heads * p.n_observed * p.n_gqa
    for at, group in enumerate(layer.groups):
        seen = reference.observe(group)

        def rows(x: Floats) -> Floats:  # [H, R, n] as the kernels store it
            return np.asarray(x.transpose(2, 0, 1).reshape(n, n_rows))

        mass = layer.section("seen", "mass", n)[at]
        np.testing.assert_allclose(mass, seen.mass, rtol=2e-4, atol=1e-6)
        prob = layer.section("seen", "prob", n, n_rows)[at]
        np.testing.assert_allclose(prob, rows(seen.a), rtol=2e-4, atol=1e-7)
        expected = rows(seen.a) / group.cardinalities[:, None]
        logs = layer.section("seen", "log_prob", n, n_rows)[at]
        is_tiny = expected < 1e-30
        np.testing.assert_allclose(logs[~is_tiny], np.log(expected[~is_tiny]), rtol=1e-4, atol=2e-4)
        assert np.all(logs[is_tiny] <= np.log(1e-29))
        if layer.params.score != "exact" and layer.params.key_weights != "fisher":
            continue
        values = layer.section("seen", "values", n, p.n_heads, p.head_v)[at]
        np.testing.assert_array_equal(values, group.values.astype(np.float32))
        norm = layer.section("seen", "out_norm", n_rows)[at]
        np.testing.assert_allclose(norm, np.linalg.norm(seen.o, axis=-1).reshape(-1), rtol=2e-4, atol=1e-6)
        u = group.values.transpose(1, 0, 2)[:, None] - seen.o[:, :, None]  # [H, R, n, dv]
        dist_sq = layer.section("seen", "dist_sq", n, n_rows)[at]
        np.testing.assert_allclose(dist_sq, rows((u**2).sum(axis=-1)), rtol=2e-4, atol=1e-6)
        if layer.params.key_weights == "fisher":
            fisher = layer.section("seen", "fisher", n, p.n_heads, p.head_k)[at]
            expected = reference._Slots(group, layer.params).fisher
            np.testing.assert_allclose(fisher, expected, rtol=1e-3, atol=1e-6 * expected.max())


@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_queries_see_what_the_reference_says(device_library: Library, shape: str, n_heads: int) -> None:
    params = Params(score="exact", key_weights="fisher", accumulate=0.5)
    layer = Layer(device_library, two_groups(n_heads=n_heads, **SHAPES[shape]), params, N_KEEP, Storage())
    layer.run("observe")
    check(layer)


@pytest.mark.parametrize("storage", list(STORAGES))
def test_every_type_of_cache_is_read(device_library: Library, storage: str) -> None:
    stored = STORAGES[storage]
    layer = Layer(device_library, two_groups(n_gqa=stored.n_gqa, n_heads=2), Params(key_weights="fisher"), N_KEEP, stored)
    layer.run("observe")
    check(layer)


@pytest.mark.parametrize("n_heads", [1, 2])
def test_every_query_head_has_its_own_sink(device_library: Library, n_heads: int) -> None:
    groups = two_groups(n_gqa=4, n_heads=n_heads, learned_sinks=True)
    layer = Layer(device_library, groups, Params(key_weights="fisher"), N_KEEP, Storage(n_gqa=4))
    layer.run("observe")
    check(layer)


@pytest.mark.parametrize("score", ["mass", "output", "exact", "h2o"])
def test_what_a_score_does_not_need_is_left_out(device_library: Library, score: reference.Score) -> None:
    layer = Layer(device_library, two_groups(), Params(score=score, key_weights="mass"), N_KEEP, Storage())
    layer.run("observe")
    check(layer)
    full = Layer(device_library, two_groups(), Params(key_weights="fisher"), N_KEEP, Storage())
    assert layer.seen.nbytes < full.seen.nbytes


def test_a_query_that_sees_nothing_gets_zeros(device_library: Library) -> None:
    groups = [
        replace(group, query_positions=np.linspace(-1, group.positions[-1], 24).astype(np.int64)) for group in two_groups()
    ]
    layer = Layer(
        device_library, [replace(group, query_positions=groups[0].query_positions) for group in groups], Params(), 32, Storage()
    )
    layer.run("observe")
    check(layer)
    assert not layer.section("seen", "prob", 80, 24)[:, :, 0].any()


@pytest.mark.parametrize("n_threads", [1, 7, 128])
@pytest.mark.parametrize("order", ["backward", "shuffled"])
def test_the_order_of_threads_changes_nothing(device_library: Library, order: str, n_threads: int) -> None:
    """A barrier that is missing would show, and a sum that depends on who comes first."""
    layers = [
        Layer(device_library, two_groups(n_heads=2, n=300), Params(key_weights="fisher"), N_KEEP, Storage("F16", "F16", "F16"))
        for _ in range(2)
    ]
    layers[0].run("observe", n_threads)
    layers[1].run("observe", n_threads, order)
    np.testing.assert_array_equal(layers[0].seen, layers[1].seen)
