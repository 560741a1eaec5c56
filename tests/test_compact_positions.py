"""positions="compact": slots move up, so that a text of any length stays within what the model was trained for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from groups import random_group

from asymkv_gguf import AsymKVConfig, Llama, recall, reference
from asymkv_gguf.cli.demo import MODEL, answer_of
from asymkv_gguf.errors import ParameterError, UnsupportedError
from asymkv_gguf.llama import _api
from asymkv_gguf.native.groups import compress_group
from asymkv_gguf.reference import Params

TRAINED = 4096  # context of the tiny models
CONFIG = AsymKVConfig(budget=128, sinks=4, recent=32, observe=16, chunk=64, positions="compact")


def tokens(n: int, seed: int = 1) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 259, n)]


@pytest.fixture
def llm(tiny: Callable[[str], Path]) -> Iterator[Llama]:
    llm = Llama(str(tiny("llama")), asymkv=CONFIG, n_ctx=16384, n_batch=64, n_threads=1, verbose=False)
    assert int(llm.metadata["llama.context_length"]) == TRAINED
    yield llm
    llm.close()


# one group


@pytest.mark.parametrize("span", [210, 350, 600])
@pytest.mark.parametrize("changes", [{}, {"neox": True, "n_heads": 2}, {"n_rot": 0}, {"n_rot": 16}])
def test_slots_move_as_in_the_reference(changes: dict[str, int], span: int) -> None:
    group, params = random_group(400, seed=3, **changes), Params(span=span, room=40)  # type: ignore[arg-type]
    native, expected = compress_group(_api, group, params, 150), reference.compress(group, params, 150)
    assert native.kept.tolist() == expected.kept
    np.testing.assert_allclose(native.positions, expected.group.positions, rtol=1e-9)
    np.testing.assert_allclose(native.keys, expected.group.keys, rtol=1e-4, atol=1e-5)


def test_slots_move_only_where_they_have_to_and_then_fill_three_quarters_of_the_span() -> None:
    group = random_group(400, seed=3)
    still = reference.compress(group, Params(room=40), 150).group
    length = still.positions[-1] - still.positions[0]
    for span, has_moved in ((length + 41, False), (length + 39, True), (220, True)):
        native = compress_group(_api, group, Params(span=int(span), room=40), 150)
        if not has_moved:
            np.testing.assert_allclose(native.positions, still.positions, rtol=1e-12)
            continue
        np.testing.assert_array_equal(native.positions[-12:], still.positions[-12:])  # the recent window
        assert (np.diff(native.positions) > 0).all()
        assert native.positions[-1] + 40 - native.positions[0] <= 0.75 * int(span) + 1
        # each slot has a token's room, or as much as there is for everybody
        moved = native.positions[: 150 - 12]
        widths = 2 * (native.positions[150 - 12] - 0.5 - moved[-1]), *np.diff(moved)
        assert max(widths) <= native.cardinalities.max()


def test_what_slots_say_to_each_other_changes_only_by_distance() -> None:
    """A key that has moved is the same key rotated."""
    group = random_group(400, seed=3)
    still, moved = (compress_group(_api, group, Params(span=span, room=40), 150) for span in (0, 300))
    delta = moved.positions - still.positions
    turned = reference.rotate(still.keys, delta[:, None], group.rope_freqs, group.n_rot, group.rope_neox)
    assert np.abs(delta).max() > 50
    np.testing.assert_allclose(moved.keys, turned, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(moved.values, still.values)


# a cache


def test_a_text_of_any_length_spans_no_more_than_the_trained_context(llm: Llama) -> None:
    for _ in range(10):
        llm.eval(tokens(1024))
        slots = llm.asymkv_slots(0, 0)
        assert slots["position"][-1] == llm.n_tokens - 1
        assert slots["position"][-1] - slots["position"][0] < TRAINED
        assert (np.diff(slots["position"]) > 0).all()
        assert slots["cardinality"].sum() + llm.asymkv_lost(0, 0) == llm.n_tokens


def test_recent_tokens_can_be_taken_back_and_sinks_that_moved_cannot_be_gone_on_from(llm: Llama) -> None:
    llm.eval(tokens(6000))
    memory_slots = llm.asymkv_stats().slots
    llm.n_tokens -= 20
    llm.eval(tokens(20, seed=2))
    assert llm.asymkv_stats().slots == memory_slots
    assert llm.last_reread == 0
    assert not llm._ctx.kv_cache_seq_rm(0, 2, -1)  # two of the sinks would stay, far from where they were
    assert llm._ctx.kv_cache_seq_rm(0, 0, -1)
    llm.reset()
    llm.eval(tokens(100))
    assert llm.asymkv_slots(0, 0)["position"].tolist() == list(range(100))


def test_a_restored_state_goes_on_bit_for_bit(tiny: Callable[[str], Path], llm: Llama) -> None:
    llm.eval(tokens(6000))
    state = llm.save_state()
    other = Llama(str(tiny("llama")), asymkv=CONFIG, n_ctx=16384, n_batch=64, n_threads=1, verbose=False)
    other.load_state(state)
    assert not other._ctx.kv_cache_seq_rm(0, 2, -1)
    for one in (llm, other):
        one.eval(tokens(500, seed=3))
    first, second = llm.last_logits(), other.last_logits()
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(llm.asymkv_slots(1, 0), other.asymkv_slots(1, 0))
    other.close()


def test_the_packaged_model_answers_from_twice_its_context() -> None:
    """It was trained for 4,096 tokens; with positions as they are it cannot find what is further away."""
    document = recall.make_document(1, tokens=8000)
    right = {}
    for positions in ("original", "compact"):
        config = AsymKVConfig(budget=1000, chunk=64, positions=positions)
        llm = Llama(str(MODEL), asymkv=config, n_ctx=8448, n_threads=1, verbose=False)
        llm.eval(llm.tokenize(document.text.encode()))
        assert llm.n_tokens > 7900
        state = llm.save_state()
        right[positions] = 0
        for question in document.questions:
            llm.load_state(state)
            right[positions] += answer_of(llm, question.prompt) == question.answer
        llm.close()
    assert right["compact"] >= 0.9 * len(document.questions)
    assert right["original"] < right["compact"]


# what cannot be


def test_a_context_too_short_for_the_window_is_refused(tiny: Callable[[str], Path]) -> None:
    config = AsymKVConfig(budget=8192, recent=2000, positions="compact")
    with pytest.raises(UnsupportedError, match="compact positions need a model that was trained for 5024 tokens or more"):
        Llama(str(tiny("llama")), asymkv=config, n_ctx=8192, n_threads=1, verbose=False)


def test_a_span_too_short_and_an_unknown_choice_are_named() -> None:
    with pytest.raises(ParameterError, match="a span of 100 positions is too short for 64 recent .*: use at least 208"):
        compress_group(_api, random_group(), Params(span=100, room=40), 40)
    with pytest.raises(ValueError, match="unknown positions 'short'; there are original, compact"):
        AsymKVConfig(positions="short")
