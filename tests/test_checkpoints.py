"""Checkpoints: going back beyond the recent window restores the nearest one, and reads only what follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import random_tokens, read, settings

from asymkv_gguf import Llama
from asymkv_gguf.checkpoints import Checkpoint, Checkpoints
from asymkv_gguf.sibling import sibling
from asymkv_gguf.state import read_state

CONFIG = {"budget": 128, "sinks": 4, "recent": 40, "observe": 32}
TOKENS = random_tokens(600)


def opened(path: Path, **options: Any) -> Llama:
    return Llama(str(path), **{"asymkv": CONFIG, **settings(), "swa_full": False, **options})


@pytest.fixture
def llm(tiny: Callable[[str], Path]) -> Iterator[Llama]:
    """600 tokens, with checkpoints after 200 and 400; noted in `reread` is what is read again."""
    llm = opened(tiny("llama"))
    for start in (0, 200, 400):
        llm.eval(TOKENS[start : start + 200])
        if start < 400:
            llm.checkpoint()
    yield llm
    llm.close()


def noted(llm: Llama) -> list[tuple[int, int]]:
    """(n_again, n_kept) of every second reading from now on."""
    notes: list[tuple[int, int]] = []
    llm.on_reread = lambda n_again, n_kept: notes.append((n_again, n_kept))
    return notes


def n_decoded(llm: Llama) -> list[int]:
    """Tokens that each following reading has."""
    counts: list[int] = []
    llm.on_progress = lambda done, total: counts.append(total) if done == total else None
    return counts


@pytest.mark.parametrize("model", ["llama", "lfm2", "qwen2"])
def test_a_restored_checkpoint_is_the_state_bit_for_bit(tiny: Callable[[str], Path], model: str) -> None:
    llm = opened(tiny(model))
    llm.eval(TOKENS[:200])
    state, logits = read_state(llm.ctx).copy(), llm.last_logits()
    llm.checkpoint()
    llm.eval(TOKENS[200:])
    notes = noted(llm)
    llm.n_tokens = 200  # as llama_cpp takes back
    llm.eval([])
    assert notes == []  # nothing is read again
    assert np.array_equal(read_state(llm.ctx), state)
    restored = llm.last_logits()
    assert logits is not None
    assert restored is not None
    assert np.array_equal(restored, logits)
    assert llm._input_ids.tolist() == TOKENS[:200]
    llm.close()


def test_going_back_is_as_if_what_followed_had_never_been_read(tiny: Callable[[str], Path], llm: Llama) -> None:
    """The same batches from the same state: equal bits, through compressions."""
    never = opened(tiny("llama"))
    for start in (0, 200):
        never.eval(TOKENS[start : start + 200])
    other = random_tokens(200, seed=3)[1:]
    expected = read(never, other, 50)
    llm.n_tokens = 400
    np.testing.assert_array_equal(read(llm, other, 50), expected)
    assert np.array_equal(read_state(llm.ctx), read_state(never.ctx))
    never.close()


@pytest.mark.parametrize(("cut", "kept"), [(450, 400), (401, 400), (400, 400), (399, 200), (250, 200), (199, 0)])
def test_only_what_follows_the_nearest_checkpoint_is_read_again(llm: Llama, cut: int, kept: int) -> None:
    notes, counts = noted(llm), n_decoded(llm)
    llm.n_tokens = cut
    llm.eval([70, 71])
    n_again = cut - kept
    assert notes == ([(n_again, kept)] if n_again else [])
    assert counts == ([n_again, 2] if n_again else [2])
    assert llm.n_tokens == llm.asymkv_stats().tokens == cut + 2
    assert llm._input_ids.tolist() == [*TOKENS[:cut], 70, 71]
    if n_again:
        assert llm.last_reread == n_again


@pytest.mark.parametrize(("common", "kept"), [(450, 400), (400, 400), (300, 200), (150, 0)])
def test_generate_goes_back_to_a_checkpoint_too(llm: Llama, common: int, kept: int) -> None:
    notes, counts = noted(llm), n_decoded(llm)
    prompt = [*TOKENS[:common], 70, 71, 72]
    next(llm.generate(prompt, temp=0.0))
    assert counts == [len(prompt) - kept]
    assert notes == ([(common - kept, kept)] if common > kept else [])
    assert llm.last_reread == common - kept
    assert llm.n_tokens == llm.asymkv_stats().tokens == len(prompt)


def test_a_cut_in_the_recent_window_needs_no_checkpoint(llm: Llama) -> None:
    notes, counts = noted(llm), n_decoded(llm)
    slots = llm.asymkv_stats().slots
    next(llm.generate([*TOKENS[:590], 70], temp=0.0))
    assert (notes, counts, llm.last_reread) == ([], [1], 0)
    assert llm.asymkv_stats().slots == slots - 10 + 1


def test_a_prompt_that_ends_at_a_checkpoint_is_answered_from_it_without_reading(llm: Llama) -> None:
    """So that another answer to the same message begins with the same logits."""
    llm.n_tokens = 400
    llm.eval([])
    expected = next(llm.generate(TOKENS[:400], temp=0.0))
    llm.eval(TOKENS[400:])
    counts = n_decoded(llm)
    assert next(llm.generate(TOKENS[:400], temp=0.0)) == expected
    assert counts == []
    assert np.array_equal(llm._input_ids, TOKENS[:400])


def test_another_text_and_back_costs_what_is_new(llm: Llama) -> None:
    next(llm.generate(random_tokens(300, seed=5), temp=0.0))  # shares the start token
    notes, counts = noted(llm), n_decoded(llm)
    next(llm.generate([*TOKENS[:400], 70], temp=0.0))
    assert (notes, counts) == ([], [1])  # the checkpoint has all but one


def test_without_a_checkpoint_everything_is_read_again_and_said(tiny: Callable[[str], Path], capfd: Any) -> None:
    llm = opened(tiny("llama"))
    llm.eval(TOKENS)
    notes = noted(llm)
    llm.verbose = True
    llm.n_tokens = 300
    llm.eval([70])
    assert notes == [(300, 0)]
    said = capfd.readouterr().err
    assert "asymkv: merged tokens cannot be taken back, reading 300 tokens again (0 are kept)" in said
    llm.close()


def test_checkpoints_are_bounded_in_number_and_the_newest_stays(llm: Llama) -> None:
    llm.max_checkpoints = 3
    for _ in range(8):
        llm.eval(random_tokens(30, seed=llm.n_tokens)[1:])
        llm.checkpoint()
        assert llm.n_checkpoints <= 3
        assert llm._checkpoints.token_counts()[-1] == llm.n_tokens
    llm.max_checkpoints = 1
    llm.checkpoint()
    assert llm._checkpoints.token_counts() == [llm.n_tokens]
    llm.max_checkpoints = 0
    llm.checkpoint()
    llm.reset()
    assert (llm.n_checkpoints, llm.checkpoint_bytes) == (0, 0)


def test_checkpoints_are_bounded_in_bytes(llm: Llama, capfd: Any) -> None:
    one = llm.checkpoint_bytes // 2
    llm.max_checkpoint_bytes = 2 * llm.checkpoint_bytes // 3  # for one
    llm.checkpoint()
    assert llm.n_checkpoints == 1
    assert 0.5 * one < llm.checkpoint_bytes <= llm.max_checkpoint_bytes
    llm.max_checkpoint_bytes = 1000
    llm.verbose = True
    llm.eval([70])
    llm.checkpoint()
    assert llm.n_checkpoints == 1  # the old one is of use still
    assert "asymkv: no checkpoint, " in capfd.readouterr().err


def test_a_checkpoint_has_the_bytes_of_the_live_slots_and_no_scores_of_the_context(llm: Llama) -> None:
    stats = llm.asymkv_stats()
    newest = llm._checkpoints._kept[-1]
    assert newest.n_bytes == newest.state.nbytes + 400 * 4 + llm.n_vocab() * 4
    # keys and values of the slots, their tables and the observed queries; not n_ctx or n_batch of anything
    assert newest.state.nbytes < stats.kv_bytes + 2 * stats.table_bytes
    assert llm.checkpoint_bytes == sum(checkpoint.n_bytes for checkpoint in llm._checkpoints._kept)


def test_the_same_place_twice_is_one_checkpoint(llm: Llama) -> None:
    llm.checkpoint()
    n = llm.n_checkpoints
    llm.checkpoint()
    assert llm.n_checkpoints == n


def test_a_checkpoint_is_of_the_text_that_is_there(llm: Llama) -> None:
    """What was taken back, and not removed yet, is not in it."""
    llm.n_tokens = 590
    llm.checkpoint()
    assert llm._checkpoints.token_counts()[-1] == llm.asymkv_stats().tokens == 590


def test_with_the_stock_cache_they_do_nothing(tiny: Callable[[str], Path]) -> None:
    llm = opened(tiny("llama"), asymkv=False)
    llm.eval(TOKENS[:300])
    llm.checkpoint()
    notes = noted(llm)
    llm.n_tokens = 100
    llm.eval([70])
    assert (llm.n_checkpoints, llm.checkpoint_bytes, notes, llm.n_tokens) == (0, 0, [], 101)
    llm.close()


def test_an_empty_context_has_no_checkpoint(tiny: Callable[[str], Path]) -> None:
    llm = opened(tiny("llama"))
    llm.checkpoint()
    assert llm.n_checkpoints == 0
    llm.close()


def test_a_sibling_has_checkpoints_of_its_own(llm: Llama) -> None:
    other = sibling(llm)
    assert other.n_checkpoints == 0
    other.eval(TOKENS[:50])
    other.checkpoint()
    assert (other.n_checkpoints, llm.n_checkpoints) == (1, 2)
    other.close()


def test_a_checkpoint_that_llama_cpp_refuses_is_dropped_and_everything_read_again(llm: Llama) -> None:
    kept = llm._checkpoints._kept
    kept[1] = Checkpoint(kept[1].tokens, kept[1].state[:1000], kept[1].logits)
    notes = noted(llm)
    llm.n_tokens = 450
    llm.eval([70])
    assert notes == [(450, 0)]
    assert llm.n_checkpoints == 1
    assert llm.asymkv_stats().tokens == llm.n_tokens == 451


def test_reading_again_can_be_interrupted_and_the_text_stays_true(llm: Llama) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    llm.on_progress = stop
    with pytest.raises(KeyboardInterrupt):
        next(llm.generate([*TOKENS[:300], 70], temp=0.0))
    llm.on_progress = None
    assert llm.n_tokens == llm.asymkv_stats().tokens == 264  # the checkpoint, and one batch
    assert llm._input_ids.tolist() == TOKENS[:264]


def test_they_are_dense_near_the_end_and_sparse_before() -> None:
    kept = Checkpoints()
    text = np.arange(100_000, dtype=np.intc)
    for n in range(1000, len(text) + 1, 1000):
        assert kept.make_room(text[:n], 1, 5, 1 << 20)
        kept.add(Checkpoint(text[:n], np.zeros(1, np.uint8), None))
    counts = kept.token_counts()
    assert counts[-1] == 100_000
    assert counts[0] > 10_000
    distances = len(text) - np.array(counts[:-1])
    assert np.all(distances[:-1] >= 1.5 * distances[1:])


def test_those_of_other_texts_go_first() -> None:
    kept = Checkpoints()
    text, other = np.arange(100, dtype=np.intc), np.arange(100, 200, dtype=np.intc)
    for tokens in (text[:50], other[:60], text[:70], text[:90]):
        kept.make_room(tokens, 1, 3, 1 << 20)
        kept.add(Checkpoint(tokens, np.zeros(1, np.uint8), None))
    assert kept.token_counts() == [50, 70, 90]
    assert kept.nearest(other) is None
    nearest = kept.nearest(text[:80])
    assert nearest is not None
    assert nearest.n_tokens == 70
    assert kept.nearest(text[:70]) is not nearest  # without logits there would be nothing to sample from
