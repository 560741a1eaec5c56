"""What holds in a live context after every compression, whatever the model, the cache type and the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import last_logits, random_tokens, read, settings
from tiny_models import MERGED, Builder

from asymkv_gguf import Llama, reference
from asymkv_gguf.llama import _api
from asymkv_gguf.native.groups import read_group

SINKS, RECENT, BUDGET, BATCH = 4, 40, 128, 64
SMALL = {"budget": BUDGET, "sinks": SINKS, "recent": RECENT, "observe": 32}


def small_llama(path: Path, cache_type: str = "f16", flash_attn: bool = True, **config: Any) -> Llama:
    keywords = settings(cache_type, flash_attn, n_batch=BATCH) | {"swa_full": False}
    return Llama(str(path), asymkv={**SMALL, **config}, **keywords)


def groups(llm: Llama) -> Iterator[tuple[int, int]]:
    stats = llm.asymkv_stats()
    for layer in range(stats.layers):
        for group in range(stats.groups):
            yield layer, group


def assert_invariants(llm: Llama) -> None:
    """Conservation, order, protection and equal slot counts, in every layer and group."""
    stats = llm.asymkv_stats()
    n_tokens = llm.n_tokens
    assert stats.tokens == n_tokens
    for layer, group in groups(llm):
        slots = llm.asymkv_slots(layer, group)
        assert len(slots) == stats.slots <= stats.capacity
        assert slots["cardinality"].min() >= 1
        assert int(slots["cardinality"].sum()) + llm.asymkv_lost(layer, group) == n_tokens
        assert np.all(np.diff(slots["position"]) > 0)
        # no token stands in two slots: spans are disjoint, and lie around their slot's position
        assert np.all(slots["first"][1:] > slots["last"][:-1])
        assert np.all((slots["first"] <= slots["position"]) & (slots["position"] <= slots["last"]))
        assert np.all(slots["cardinality"] <= slots["last"] - slots["first"] + 1)
        exact = np.r_[slots[:SINKS], slots[-RECENT:]]
        assert np.all(exact["cardinality"] == 1)
        assert exact["position"].tolist() == [*range(SINKS), *range(n_tokens - RECENT, n_tokens)]


@pytest.mark.parametrize("batches", [(64, 64, 12), (140,), (100, *[1] * 40), (64, 3, *[1] * 20, 7, 46), (*[1] * 140,)], ids=str)
@pytest.mark.parametrize(("recent", "observe"), [(40, 10), (40, 40), (40, 13)])
def test_observed_queries_are_spread_over_the_recent_tokens(
    tiny: Callable[[str], Path], batches: tuple[int, ...], recent: int, observe: int
) -> None:
    llm = small_llama(tiny("llama"), recent=recent, observe=observe)
    for n in batches:
        read(llm, random_tokens(n), n)
    group = read_group(_api, llm.ctx, 0, 0)
    n_gqa = group.queries.shape[1] // len(set(group.query_positions))
    positions = group.query_positions[::n_gqa]
    stride = recent // observe
    assert len(positions) <= observe
    assert positions[-1] > 139 - stride
    assert positions[0] >= 139 - recent
    assert np.all((np.diff(positions) >= 1) & (np.diff(positions) < 2 * stride))
    if batches == (140,):
        assert np.all(np.diff(positions) == stride)
        assert (len(positions), positions[-1]) == (observe, 139)


@pytest.mark.parametrize("per_head", [True, False], ids=["per-head", "per-layer"])
@pytest.mark.parametrize("score", ["mass", "output", "exact", "random"])
@pytest.mark.parametrize("model", list(MERGED))
def test_every_compression_conserves_cardinality_and_order(
    tiny: Callable[[str], Path], model: str, score: str, per_head: bool
) -> None:
    llm = small_llama(tiny(model), score=score, per_head=per_head)
    tokens = random_tokens(600)
    for start in range(0, len(tokens), BATCH):
        llm.eval(tokens[start : start + BATCH])
        assert_invariants(llm)
    for token in random_tokens(70, seed=1):  # decoding compresses as well
        llm.eval([token])
    assert_invariants(llm)
    stats = llm.asymkv_stats()
    assert stats.compressions >= 4
    assert stats.merges + stats.evictions == (llm.n_tokens - stats.slots) * sum(1 for _ in groups(llm))
    assert np.isfinite(last_logits(llm)).all()
    llm.close()


@pytest.mark.parametrize(("positions", "per_head"), [("original", True), ("compact", True), ("compact", False)])
def test_beyond_the_horizon_only_sinks_stay(tiny: Callable[[str], Path], positions: str, per_head: bool) -> None:
    horizon, n_tokens = 200, 700
    old = {None: 0, horizon: 0}
    for limit in old:
        llm = small_llama(tiny("llama"), positions=positions, per_head=per_head, horizon=limit)
        for token in random_tokens(n_tokens):
            llm.eval([token])
        stats = llm.asymkv_stats()
        assert stats.compressions > 3
        first = n_tokens - horizon - (stats.capacity - BUDGET)  # at the latest compression
        for layer, group in groups(llm):
            slots = llm.asymkv_slots(layer, group)
            old[limit] += int(np.sum(slots["last"][SINKS:] < first))
            assert int(slots["cardinality"].sum()) + llm.asymkv_lost(layer, group) == n_tokens
            assert slots["last"][:SINKS].tolist() == list(range(SINKS))
        llm.close()
    assert old[horizon] == 0 < old[None]


@pytest.mark.parametrize("max_cardinality", [1, 5])
def test_clipped_cardinalities_count_what_was_clipped_as_lost(tiny: Callable[[str], Path], max_cardinality: int) -> None:
    llm = small_llama(tiny("llama"), score="mass", max_cardinality=max_cardinality)
    read(llm, random_tokens(500), BATCH)
    for layer, group in groups(llm):
        slots = llm.asymkv_slots(layer, group)
        assert slots["cardinality"].max() <= max_cardinality
        assert int(slots["cardinality"].sum()) + llm.asymkv_lost(layer, group) == llm.n_tokens
    llm.close()


@pytest.mark.parametrize("per_head", [True, False], ids=["per-head", "per-layer"])
@pytest.mark.parametrize(("cache_type", "tolerance"), [("f16", 2e-3), ("q8_0", 2e-2), ("q4_0", 2e-1)])
@pytest.mark.parametrize("key_weights", reference.KEY_WEIGHTS)
@pytest.mark.parametrize("score", ["mass", "output", "exact"])  # `random` draws a new order for every layer
def test_a_live_cache_is_merged_as_the_reference_merges_it(
    tiny: Callable[[str], Path],
    score: reference.Score,
    key_weights: reference.KeyWeights,
    cache_type: str,
    tolerance: float,
    per_head: bool,
) -> None:
    """Twice, so that the second compression starts from merged slots. Stored rows differ by the cache type's rounding."""
    llm = small_llama(tiny("llama-head64"), cache_type, score=score, key_weights=key_weights, per_head=per_head)
    n_keep = 110
    params = reference.Params(score=score, key_weights=key_weights, room=llm.asymkv_stats().capacity - n_keep)
    tokens = random_tokens(400)
    for part in (tokens[:150], tokens[150:190]):
        read(llm, part, BATCH)
        before = {index: read_group(_api, llm.ctx, *index) for index in groups(llm)}
        llm.asymkv_compress(n_keep)
        for index, group in before.items():
            after = read_group(_api, llm.ctx, *index)
            slots = llm.asymkv_slots(*index)
            expected = reference.compress(group, params, n_keep).group
            assert after.cardinalities.tolist() == expected.cardinalities.tolist()
            assert slots["cardinality"].tolist() == expected.cardinalities.tolist()
            np.testing.assert_allclose(after.positions, expected.positions, rtol=1e-9)
            np.testing.assert_allclose(after.scores, expected.scores, rtol=1e-3, atol=1e-4)
            for name in ("keys", "values"):
                actual, wanted = getattr(after, name), getattr(expected, name)
                assert np.abs(actual - wanted).max() <= tolerance * np.abs(wanted).max()
    llm.close()


@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize("model", [model for model in MERGED if model != "gpt-oss"])  # its sinks fade as tokens become more
def test_a_key_moved_by_d_positions_is_the_key_computed_d_positions_later(
    tiny: Callable[[str], Path], model: str, cache_type: str
) -> None:
    """One token over and over: every layer sees the same input everywhere, so keys differ by their rotation alone."""
    # flash attention on a CPU sums in half precision, which the next layer's keys would show
    llm = small_llama(tiny(model), cache_type, flash_attn=cache_type != "f16")
    read(llm, [70] * 120, BATCH)
    for layer, head in groups(llm):
        group = read_group(_api, llm.ctx, layer, head)
        assert group.n_rot > 0
        start = 8  # a hybrid's convolutions need a few tokens to settle
        if model == "lfm2" and layer > 0:
            continue  # behind the first attention, which saw those few tokens, inputs are not quite equal
        delta = group.positions[start:] - group.positions[start]
        moved = reference.rotate(
            np.broadcast_to(group.keys[start], group.keys[start:].shape),
            delta[:, None],
            group.rope_freqs,
            group.n_rot,
            group.rope_neox,
        )
        tolerance = 3e-3 if cache_type == "f16" else 3e-2
        assert np.abs(moved - group.keys[start:]).max() <= tolerance * np.abs(group.keys).max()
    llm.close()


def write_still_model(path: Path) -> None:
    """One layer, and RoPE slowed down until it stands still: equal tokens have equal keys and values, wherever they are."""
    import gguf

    b = Builder(path, "llama", d=128, n_layer=1, n_head=4, n_head_kv=2)
    b.writer.add_layer_norm_rms_eps(1e-5)
    b.writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    b.writer.add_rope_scaling_factor(1e9)
    b.embeddings()
    b.attention(0, 2)
    b.feed_forward(0)
    b.close()


@pytest.mark.parametrize("per_head", [True, False], ids=["per-head", "per-layer"])
@pytest.mark.parametrize("score", ["output", "exact"])
def test_merging_equal_keys_changes_nothing_in_any_head(tmp_path: Path, score: str, per_head: bool) -> None:
    """Runs of eight equal tokens, merged to less than a quarter: what follows, one by one and as a batch, has the same logits.

    Plain attention keeps them to 1e-3. Flash attention on a CPU sums in half precision and is itself off by more than
    that on the unmerged cache; fewer slots must bring it nearer to the exact result, not further away.
    """
    write_still_model(tmp_path / "still.gguf")
    text = [token for token in random_tokens(64, seed=3) for _ in range(8)]
    following = random_tokens(24, seed=4)
    config = {"budget": 480, "recent": 32, "sinks": 8, "score": score, "evict": False, "per_head": per_head}
    logits = {}
    for flash_attn in (False, True):
        for n_keep in (0, 120):
            llm = Llama(str(tmp_path / "still.gguf"), asymkv=config, **settings(flash_attn=flash_attn, n_ctx=2048))
            read(llm, text, 64)
            if n_keep:
                llm.asymkv_compress(n_keep)
                for layer, group in groups(llm):
                    slots = llm.asymkv_slots(layer, group)
                    assert len(slots) == n_keep
                    assert int(slots["cardinality"].sum()) == len(text)
            logits[flash_attn, n_keep] = np.r_[read(llm, following, 1), read(llm, following, 24)]
            llm.close()
    exact = logits[False, 0]
    error = {run: float(np.abs(values - exact).max() / np.abs(exact).max()) for run, values in logits.items()}
    assert error[False, 120] <= 1e-3
    assert error[True, 120] <= max(1e-3, error[True, 0])


def test_without_cardinality_the_same_merge_is_not_lossless(tmp_path: Path) -> None:
    """The test above can fail: cardinalities clipped to 1 change the logits by far more than its tolerance."""
    write_still_model(tmp_path / "still.gguf")
    text = [token for token in random_tokens(24, seed=3) for _ in range(8)] + random_tokens(256, seed=5)
    logits = []
    for max_cardinality in (None, 1):
        config = {"budget": 400, "recent": 32, "sinks": 8, "score": "output", "max_cardinality": max_cardinality}
        llm = Llama(str(tmp_path / "still.gguf"), asymkv=config, **settings(n_ctx=2048))
        read(llm, text, 64)
        llm.asymkv_compress(300)
        logits.append(read(llm, random_tokens(4, seed=6), 1))
        llm.close()
    assert np.abs(logits[1] - logits[0]).max() > 1e-2 * np.abs(logits[0]).max()


@pytest.mark.parametrize("per_head", [True, False], ids=["per-head", "per-layer"])
def test_flash_and_plain_attention_agree_on_a_merged_cache(tiny: Callable[[str], Path], per_head: bool) -> None:
    logits = []
    for flash_attn in (True, False):
        llm = small_llama(tiny("llama"), flash_attn=flash_attn, per_head=per_head)
        read(llm, random_tokens(128), BATCH)
        llm.asymkv_compress(100)
        logits.append(read(llm, random_tokens(20, seed=8), 20))
        llm.close()
    assert np.abs(logits[0] - logits[1]).max() <= 2e-2 * np.abs(logits[1]).max()


def test_compressing_again_without_new_tokens_does_nothing(tiny: Callable[[str], Path]) -> None:
    llm = small_llama(tiny("llama"))
    read(llm, random_tokens(150), BATCH)
    llm.asymkv_compress()
    slots = llm.asymkv_slots(0, 0)
    llm.asymkv_compress()
    assert llm.asymkv_stats().compressions == 1
    np.testing.assert_array_equal(slots, llm.asymkv_slots(0, 0))
    llm.close()
