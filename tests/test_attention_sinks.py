"""Models with learned attention sinks (gpt-oss): a score of each query head that takes part in the softmax and has no value.

That nothing changes while nothing is merged, and that native and portable attention agree, is told for them as for all other
models by test_identity.py and test_native_attention.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from groups import random_group
from runs import random_tokens, read, settings
from test_merged_cache import BATCH, groups, small_llama
from tiny_models import write_gpt_oss

from asymkv_gguf import Llama, reference
from asymkv_gguf.llama import _api
from asymkv_gguf.native.groups import read_group
from asymkv_gguf.reference import Group, Params

PLANS = pytest.mark.parametrize("per_head", [True, False], ids=["per-head", "per-layer"])


def of_file(path: Path, layer: int) -> np.ndarray:
    """The sinks of a layer, one for each query head."""
    [tensor] = [t for t in gguf.GGUFReader(path).tensors if t.name == f"blk.{layer}.attn_sinks.weight"]
    return np.array(tensor.data, np.float64)


# the reference


def as_a_slot(group: Group) -> Group:
    """The group without sinks, and in front of it a protected slot that has no value and gets their scores."""
    assert group.sink_logits is not None
    assert group.n_rot == 0  # one channel more, which rotates with none

    def with_first(x: np.ndarray, first: float) -> np.ndarray:
        return np.concatenate((np.full_like(x[:1], first), x))

    keys = np.concatenate((with_first(group.keys, 0.0), np.zeros((len(group.keys) + 1, *group.keys.shape[1:-1], 1))), axis=-1)
    keys[0, :, -1] = 1.0
    queries = np.concatenate((group.queries, group.sink_logits[..., None] / group.scale), axis=-1)
    return replace(
        group,
        keys=keys,
        values=with_first(group.values, 0.0),
        queries=queries,
        positions=with_first(group.positions, -1.0),
        cardinalities=with_first(group.cardinalities, 1),
        scores=with_first(group.scores, 0.0),
        is_protected=with_first(group.is_protected, True),
        is_expired=with_first(group.is_expired, False),
        sink_logits=None,
    )


@pytest.mark.parametrize("score", ["mass", "output", "exact"])
def test_a_sink_is_a_slot_that_has_no_value_and_stays(score: reference.Score) -> None:
    """The same probabilities, outputs, prices and plan."""
    group = random_group(60, n_heads=2, n_rot=0, learned_sinks=True, n_gqa=4)
    slot = as_a_slot(group)
    seen, expected = reference.observe(group), reference.observe(slot)
    np.testing.assert_allclose(seen.a, expected.a[..., 1:], rtol=1e-12)
    np.testing.assert_allclose(seen.o, expected.o, rtol=1e-12)
    share = expected.a[..., 0]
    assert 0.05 < share.min() < share.max() < 1
    np.testing.assert_allclose(seen.a.sum(axis=-1), 1 - share, rtol=1e-9)

    params = Params(score=score, key_weights="mass")  # which a channel more does not change
    for cost, of_slot in zip(reference.costs(group, params), reference.costs(slot, params), strict=True):
        np.testing.assert_allclose(cost, of_slot[1:], rtol=1e-9)
    ops = reference.compress(group, params, 30).ops
    assert [(op.i + 1, None if op.j is None else op.j + 1) for op in ops] == [
        op[:2] for op in reference.compress(slot, params, 31).ops
    ]


def test_without_its_sink_a_head_would_plan_otherwise() -> None:
    """The test above can fail."""
    group = random_group(60, n_heads=2, n_rot=0, learned_sinks=True, n_gqa=4)
    bare = replace(group, sink_logits=None)
    with_sinks, without = (reference.compress(one, Params(), 30).ops for one in (group, bare))
    assert [op[:2] for op in with_sinks] != [op[:2] for op in without]


def test_sinks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sink_logits must have shape \(1, 24\), not \(24,\)"):
        replace(random_group(), sink_logits=np.zeros(24))


# a live cache


@PLANS
def test_observed_probabilities_leave_the_sink_its_share(tiny: Callable[[str], Path], per_head: bool) -> None:
    path = tiny("gpt-oss")
    llm = small_llama(path, per_head=per_head)
    read(llm, random_tokens(150), BATCH)
    sinks = of_file(path, 1)  # of four query heads; the first layer has a window, and is not merged
    for index in groups(llm):
        group = read_group(_api, llm.ctx, *index)
        n_heads, n_queries = group.queries.shape[:2]
        assert group.sink_logits is not None
        expected = (sinks.reshape(2, 2)[index[1]] if per_head else sinks).reshape(n_heads, 1, 2)
        np.testing.assert_array_equal(group.sink_logits.reshape(n_heads, -1, 2), np.repeat(expected, n_queries // 2, axis=1))
        share = 1 - reference.observe(group).a.sum(axis=-1)
        assert 0.01 < share.min() < share.max() < 0.99
    llm.close()


@PLANS
@pytest.mark.parametrize("score", ["mass", "exact"])
def test_a_live_cache_is_merged_as_the_reference_merges_it(
    tiny: Callable[[str], Path], score: reference.Score, per_head: bool
) -> None:
    """Twice, so that the second compression starts from merged slots."""
    llm = small_llama(tiny("gpt-oss"), score=score, per_head=per_head)
    n_keep = 110
    params = Params(score=score, room=llm.asymkv_stats().capacity - n_keep)
    tokens = random_tokens(400)
    for part in (tokens[:150], tokens[150:190]):
        read(llm, part, BATCH)
        before = {index: read_group(_api, llm.ctx, *index) for index in groups(llm)}
        llm.asymkv_compress(n_keep)
        for index, group in before.items():
            after = read_group(_api, llm.ctx, *index)
            expected = reference.compress(group, params, n_keep).group
            bare = reference.compress(replace(group, sink_logits=None), params, n_keep).group
            assert after.cardinalities.tolist() == expected.cardinalities.tolist()
            assert after.positions.tolist() == pytest.approx(expected.positions.tolist())
            assert bare.scores.sum() > 1.02 * after.scores.sum()
            np.testing.assert_allclose(after.scores, expected.scores, rtol=1e-3, atol=1e-4)
            assert np.abs(after.keys - expected.keys).max() <= 2e-3 * np.abs(expected.keys).max()
    llm.close()


@PLANS
def test_merging_equal_keys_changes_nothing_in_any_head(tmp_path: Path, per_head: bool) -> None:
    """As test_merged_cache.py has it for a model without sinks. Flash attention on a CPU sums in half precision."""
    write_gpt_oss(tmp_path / "still.gguf", still=True)
    text = [token for token in random_tokens(64, seed=3) for _ in range(8)]
    following = random_tokens(24, seed=4)
    config = {"budget": 480, "recent": 32, "sinks": 8, "score": "output", "evict": False, "per_head": per_head}
    logits = {}
    for flash_attn in (False, True):
        for n_keep in (0, 120):
            llm = Llama(str(tmp_path / "still.gguf"), asymkv=config, **settings(flash_attn=flash_attn, n_ctx=2048))
            read(llm, text, 64)
            if n_keep:
                llm.asymkv_compress(n_keep)
                assert max(llm.asymkv_slots(*index)["cardinality"].max() for index in groups(llm)) > 4
            logits[flash_attn, n_keep] = np.r_[read(llm, following, 1), read(llm, following, 24)]
            llm.close()
    exact = logits[False, 0]
    error = {run: float(np.abs(values - exact).max() / np.abs(exact).max()) for run, values in logits.items()}
    assert error[False, 120] <= 1e-3
    assert error[True, 120] <= max(1e-3, error[True, 0])


def test_heads_that_keep_the_same_slots_attend_as_one_plan_does(tiny: Callable[[str], Path]) -> None:
    """Where ops take no cardinalities, KV heads attend one after the other; with one plan they do not."""
    logits = []
    for per_head in (True, False):
        llm = small_llama(tiny("gpt-oss"), flash_attn=False, score="streaming", per_head=per_head)
        read(llm, random_tokens(150), BATCH)
        llm.asymkv_compress(100)
        logits.append(np.r_[read(llm, random_tokens(20, seed=8), 20), read(llm, random_tokens(3, seed=9), 1)])
        llm.close()
    assert np.abs(logits[0] - logits[1]).max() <= 1e-4 * np.abs(logits[1]).max()


@pytest.mark.parametrize("flash_attn", [True, False])
def test_a_graph_has_room_for_many_heads_one_after_the_other(tmp_path: Path, flash_attn: bool) -> None:
    """More nodes than llama.cpp's limit by the number of tensors allows."""
    write_gpt_oss(tmp_path / "many.gguf", d=256, n_layer=8, n_head=32, n_head_kv=32)
    llm = small_llama(tmp_path / "many.gguf", flash_attn=flash_attn)
    assert np.isfinite(read(llm, random_tokens(300), BATCH)).all()
    assert llm.asymkv_stats().merges > 0
    llm.close()
