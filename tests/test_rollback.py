"""Taking tokens back: exact inside the recent window, refused where it would need part of a merged slot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from runs import last_logits, random_tokens, read, settings

from asymkv_gguf import Llama
from asymkv_gguf.llama import _api
from asymkv_gguf.native.groups import read_group

CONFIG = {"budget": 128, "sinks": 4, "recent": 40, "observe": 32}


@pytest.fixture
def merged(tiny: Callable[[str], Path]) -> Llama:
    """300 tokens in 110 slots."""
    llm = Llama(str(tiny("llama")), asymkv=CONFIG, **settings())
    read(llm, random_tokens(300), 64)
    llm.asymkv_compress(110)
    return llm


def remove(llm: Llama, start: int, end: int) -> bool:
    return bool(llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(llm.ctx), 0, start, end))


def test_recent_tokens_are_taken_back_exactly(merged: Llama) -> None:
    """Reading on, taking that back and reading on again gives the same logits, bit for bit."""
    following = random_tokens(30, seed=1)[1:]
    first = read(merged, following, 29)
    for n_tokens in (300, 285, 270):
        assert remove(merged, n_tokens, -1)
        merged.n_tokens = n_tokens
        stats = merged.asymkv_stats()
        assert (stats.tokens, stats.slots) == (n_tokens, 110 - (300 - n_tokens))
        if n_tokens == 300:
            np.testing.assert_array_equal(read(merged, following, 29), first)


def test_part_of_the_merged_text_cannot_be_taken_back_and_nothing_changes(merged: Llama) -> None:
    before = [merged.asymkv_slots(layer, head) for layer in range(3) for head in range(2)]
    for start, end in ((100, -1), (259, -1), (5, 20), (0, 10), (2, 280), (100, 290)):
        assert not remove(merged, start, end)
    after = [merged.asymkv_slots(layer, head) for layer in range(3) for head in range(2)]
    for slots_before, slots_after in zip(before, after, strict=True):
        np.testing.assert_array_equal(slots_before, slots_after)
    assert merged.asymkv_stats().tokens == 300


def test_all_of_the_recent_window_can_be_taken_back(merged: Llama) -> None:
    """The cut lies exactly between merged and recent tokens, and the text goes on from there."""
    following = random_tokens(41, seed=2)[1:]
    assert remove(merged, 260, -1)
    memory = llama_cpp.llama_get_memory(merged.ctx)
    assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == 259
    assert llama_cpp.llama_memory_seq_pos_min(memory, 0) == 0
    merged.n_tokens = 260
    assert np.isfinite(read(merged, following, 20)).all()
    assert merged.asymkv_stats().tokens == 300
    merged.asymkv_compress(60)
    for layer in range(3):
        for head in range(2):
            slots = merged.asymkv_slots(layer, head)
            assert int(slots["cardinality"].sum()) + merged.asymkv_lost(layer, head) == 300
            assert np.all(slots["cardinality"][-40:] == 1)


def test_compressing_right_after_a_cut_does_not_pile_everything_into_one_slot(tiny: Callable[[str], Path]) -> None:
    """The observed queries were all taken back, so nothing tells slots apart: they are merged evenly."""
    llm = Llama(str(tiny("llama")), asymkv=CONFIG, **settings())
    read(llm, random_tokens(252), 64)
    assert remove(llm, 217, -1)
    llm.asymkv_compress(100)
    for layer in range(3):
        for head in range(2):
            assert llm.asymkv_slots(layer, head)["cardinality"].max() <= 12
    llm.close()


def test_drafts_that_are_taken_back_do_not_push_out_observed_queries(merged: Llama) -> None:
    before = len(read_group(_api, merged.ctx, 0, 0).query_positions)
    for step in range(20):
        merged.eval(random_tokens(12, seed=step)[1:])
        merged.n_tokens -= 10
        assert remove(merged, merged.n_tokens, -1)
    # two query heads share a KV head; some of the last draft's rows were overwritten
    assert len(read_group(_api, merged.ctx, 0, 0).query_positions) >= before - 2 * 11


def test_a_sliding_window_that_is_gone_refuses_the_cut(tiny: Callable[[str], Path]) -> None:
    """gemma2's local layers keep 128 tokens: going back further cannot be computed, and generate() must not trust it."""
    tokens = random_tokens(500)
    keywords = settings() | {"swa_full": False}
    llm = Llama(str(tiny("gemma2")), asymkv={"budget": 512}, **keywords)
    read(llm, tokens, 64)
    assert not remove(llm, 100, -1)
    assert remove(llm, 495, -1)
    llm.n_tokens = 495
    prompt = [*tokens[:100], *random_tokens(60, seed=9)[1:]]
    next(llm.generate(prompt, temp=0.0))
    fresh = Llama(str(tiny("gemma2")), asymkv={"budget": 512}, **keywords)
    read(fresh, prompt, 64)
    assert np.abs(last_logits(llm) - last_logits(fresh)).max() <= 1e-2 * np.abs(last_logits(fresh)).max()
    llm.close()
    fresh.close()


def test_removing_what_is_not_there_changes_nothing(merged: Llama) -> None:
    for start, end in ((300, -1), (500, 600), (290, 290)):
        assert remove(merged, start, end)
    assert merged.asymkv_stats().slots == 110


@pytest.mark.parametrize("start", [0, 2, 4])
def test_removing_all_merged_text_gives_a_fresh_cache(tiny: Callable[[str], Path], merged: Llama, start: int) -> None:
    """Cut at or before the first merged token, the cache is the stock cache again: same logits from then on."""
    assert remove(merged, start, -1)
    merged.n_tokens = start
    assert merged.asymkv_stats().tokens == start
    tokens = random_tokens(300)
    logits = read(merged, tokens[start:100], 64)
    fresh = Llama(str(tiny("llama")), asymkv=False, **settings())
    fresh.eval(tokens[:64])  # the sinks were computed in a batch of this size
    fresh.n_tokens = start
    np.testing.assert_array_equal(logits, read(fresh, tokens[start:100], 64))
    fresh.close()


def test_a_refused_cut_is_read_again_and_leaves_the_right_text(tiny: Callable[[str], Path], merged: Llama) -> None:
    """Llama.eval() honours a refusal that llama_cpp's own ignores."""
    tokens = random_tokens(300)
    merged.n_tokens = 150
    merged.eval([70])
    fresh = Llama(str(tiny("llama")), asymkv=CONFIG, **settings())
    read(fresh, [*tokens[:150], 70], 151)
    assert merged.asymkv_stats().tokens == 151
    assert np.isfinite(last_logits(merged)).all()
    assert int(last_logits(merged).argmax()) == int(last_logits(fresh).argmax())
    fresh.close()


def test_sequences_other_than_the_first_are_refused(merged: Llama) -> None:
    memory = llama_cpp.llama_get_memory(merged.ctx)
    llama_cpp.llama_memory_seq_cp(memory, 0, 0, -1, -1)
    assert not llama_cpp.llama_memory_can_shift(memory)
    llama_cpp.llama_memory_seq_add(memory, 0, 0, -1, 5)  # positions stay
    assert merged.asymkv_stats().tokens == 300
    llama_cpp.llama_memory_seq_keep(memory, 0)
    assert merged.asymkv_stats().slots == 110


def test_clearing_forgets_everything(merged: Llama) -> None:
    merged._ctx.kv_cache_clear()
    stats = merged.asymkv_stats()
    assert (stats.tokens, stats.slots) == (0, 0)


def test_generation_reuses_the_prefix_of_a_merged_text(merged: Llama) -> None:
    """llama_cpp keeps the common prefix of two prompts; a cut in the recent window needs no second reading."""
    tokens = random_tokens(300)
    compressions = merged.asymkv_stats().compressions
    generator = merged.generate([*tokens[:280], 70, 71], temp=0.0)
    next(generator)
    stats = merged.asymkv_stats()
    assert merged.n_tokens == stats.tokens == 282
    assert stats.compressions == compressions  # a second reading would have compressed again
