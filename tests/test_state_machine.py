"""Random sequences of operations on a merged cache, against a plain model of it (tools/state_machine.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from runs import random_tokens, read, settings

from asymkv_gguf import Llama
from asymkv_gguf.llama import _api

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import state_machine

OPERATIONS = 2000
CONFIG = {"budget": 128, "sinks": 4, "recent": 40, "observe": 32}


@pytest.mark.parametrize("case", state_machine.CASES)
def test_random_operations_do_what_the_model_says(tmp_path: Path, case: str) -> None:
    state_machine.write_model(tmp_path / "model.gguf", case)
    counts = state_machine.run(tmp_path / "model.gguf", case, OPERATIONS // len(state_machine.CASES), seed=1)
    assert set(counts) > {"decode", "compress", "cut_recent", "cut_anywhere", "save", "load", "compare", "other_sequence"}


def test_a_model_that_forgets_a_token_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_machine.write_model(tmp_path / "model.gguf", "per head")
    append = state_machine.Model.append
    monkeypatch.setattr(
        state_machine.Model, "append", lambda model, tokens: append(model, tokens[1:] if len(tokens) > 40 else tokens)
    )
    with pytest.raises(AssertionError, match=r"per head, seed 1, operation \d+: .*the last ones: "):
        state_machine.run(tmp_path / "model.gguf", "per head", 100, seed=1)


def test_merged_slots_next_to_a_cut_stay_in_order(tiny: Callable[[str], Path]) -> None:
    """With fewer recent tokens left than are protected, what is merged stays in the middle."""
    llm = Llama(str(tiny("llama")), asymkv=CONFIG, **settings())
    read(llm, random_tokens(300), 64)
    llm.asymkv_compress(110)
    assert llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(llm.ctx), 0, 270, -1)
    llm.n_tokens = 270
    for n_keep in (70, 60):
        llm.asymkv_compress(n_keep)
        _api.check_cache(llm.ctx)
        slots = llm.asymkv_slots(0, 0)
        assert (np.diff(slots["position"]) > 0).all()
        assert slots["cardinality"][-10:].tolist() == [1] * 10
    read(llm, random_tokens(60, seed=1), 60)
    _api.check_cache(llm.ctx)
    llm.close()


@pytest.mark.parametrize("model", ["llama", "gemma2", "lfm2"])
def test_what_no_sequence_can_do_is_refused_with_a_sentence_for_all_of_a_model(tiny: Callable[[str], Path], model: str) -> None:
    """Layers with a window, and recurrent ones, have caches of llama.cpp's own, which would follow."""
    llms = [Llama(str(tiny(model)), asymkv=CONFIG, **settings() | {"swa_full": False}) for _ in range(2)]
    for llm in llms:
        read(llm, random_tokens(200), 64)
    memory = llama_cpp.llama_get_memory(llms[0].ctx)
    operations: list[tuple[Callable[[], object], str]] = [
        (lambda: llama_cpp.llama_memory_seq_cp(memory, 0, 1, -1, -1), "copy it to another"),
        (lambda: llama_cpp.llama_memory_seq_add(memory, 0, 0, -1, 5), "shift its positions"),
        (lambda: llama_cpp.llama_memory_seq_div(memory, 0, 0, -1, 2), "divide its positions"),
    ]
    for operation, what in operations:
        operation()
        assert _api.last_error() == f"a merged cache holds one sequence, number 0, and cannot {what}"
    first, second = (read(llm, random_tokens(60, seed=2), 30) for llm in llms)
    np.testing.assert_array_equal(first, second)
    assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == 259
    for llm in llms:
        llm.close()


def test_a_cut_that_is_refused_says_which_tokens_are_merged(tiny: Callable[[str], Path]) -> None:
    llm = Llama(str(tiny("llama")), asymkv=CONFIG, **settings())
    read(llm, random_tokens(300), 64)
    llm.asymkv_compress(110)
    assert not llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(llm.ctx), 0, 100, -1)
    assert _api.last_error() == (
        "tokens 100 to the end cannot be removed: tokens 4 to 259 are merged, and go together with all that follows them, "
        "or not at all"
    )
    llm.close()


def test_a_state_that_contradicts_itself_is_refused(tiny: Callable[[str], Path]) -> None:
    llm = Llama(str(tiny("llama")), asymkv=CONFIG, **settings())
    read(llm, random_tokens(300), 64)
    llm.asymkv_compress(110)
    state = llm.save_state()
    whole, lost = state.llama_state, llm.asymkv_lost(0, 0)
    # the first group's table: how many tokens are lost, how many bytes follow, one byte for each score, and the coded slots
    start = whole.index(lost.to_bytes(8, sys.byteorder))
    while not 110 < int.from_bytes(whole[start + 8 : start + 16], sys.byteorder) < 5 * 110:
        start = whole.index(lost.to_bytes(8, sys.byteorder), start + 1)
    slots = start + 16 + 110
    for place, changed in (
        (start, (lost + 1).to_bytes(8, sys.byteorder)),
        (start + 8, (1 << 60).to_bytes(8, sys.byteorder)),
        (slots + 10, bytes([whole[slots + 10] ^ 0x80])),
        (slots + 3, bytes(50)),
    ):
        state.llama_state = whole[:place] + changed + whole[place + len(changed) :]
        with pytest.raises(RuntimeError, match="the state could not be loaded, and the context is empty now"):
            llm.load_state(state)
        assert llm.asymkv_stats().slots == 0
    state.llama_state = whole
    llm.load_state(state)
    assert llm.asymkv_stats().slots == 110
    llm.close()
