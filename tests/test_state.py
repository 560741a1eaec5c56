"""Saving and restoring: a restored text goes on exactly as if it had never been interrupted."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from runs import random_tokens, read, settings

from asymkv_gguf import Llama
from asymkv_gguf.errors import AsymKVError

CONFIG = {"budget": 128, "sinks": 4, "recent": 40, "observe": 32}


def merged_llama(path: Path, *, swa_full: bool = True, **config: Any) -> Llama:
    llm = Llama(str(path), asymkv={**CONFIG, **config}, **settings() | {"swa_full": swa_full})
    read(llm, random_tokens(300), 64)
    return llm


def state_of(llm: Llama) -> bytes:
    size = llama_cpp.llama_state_get_size(llm.ctx)
    buffer = (ctypes.c_uint8 * size)()
    return bytes(buffer[: llama_cpp.llama_state_get_data(llm.ctx, buffer, size)])


def restore(llm: Llama, state: bytes) -> int:
    buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
    return int(llama_cpp.llama_state_set_data(llm.ctx, buffer, len(state)))


@pytest.mark.parametrize("per_head", [True, False], ids=["per-head", "per-layer"])
@pytest.mark.parametrize("model", ["llama", "lfm2"])
def test_a_restored_text_goes_on_bit_for_bit(tiny: Callable[[str], Path], model: str, per_head: bool) -> None:
    """Through further compressions, which need cardinalities, positions, scores and the observed queries."""
    llm = merged_llama(tiny(model), per_head=per_head)
    state = llm.save_state()
    following = random_tokens(200, seed=1)[1:]
    expected = read(llm, following, 50)
    slots = llm.asymkv_slots(0, 0)
    llm.close()

    other = Llama(str(tiny(model)), asymkv={**CONFIG, "per_head": per_head}, **settings())
    read(other, random_tokens(90, seed=2), 64)  # something to be overwritten
    other.load_state(state)
    assert other.n_tokens == 300
    assert other.asymkv_stats().tokens == 300
    logits = read(other, following, 50)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(other.asymkv_slots(0, 0), slots)
    other.close()


@pytest.mark.parametrize("swa_full", [True, False], ids=["all-kept", "window-kept"])
@pytest.mark.parametrize("model", ["gemma2", "gpt-oss"])
def test_layers_with_a_sliding_window_are_restored_cell_by_cell(
    tiny: Callable[[str], Path], model: str, swa_full: bool
) -> None:
    """What follows has the same sums in the same order, whole states and those of a sequence alike, after a cut, too."""
    llm = merged_llama(tiny(model), swa_full=swa_full)
    read(llm, random_tokens(230, seed=4), 50)  # round and round in the window's cells
    memory = llama_cpp.llama_get_memory(llm.ctx)
    assert llama_cpp.llama_memory_seq_rm(memory, 0, 517, -1)
    llm.n_tokens = 517
    state, size = state_of(llm), llama_cpp.llama_state_seq_get_size(llm.ctx, 0)
    of_sequence = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(llm.ctx, of_sequence, size, 0) == size
    following = random_tokens(200, seed=1)[1:]
    expected = read(llm, following, 50)
    llm.close()

    for restored in ("whole", "sequence"):
        other = merged_llama(tiny(model), swa_full=swa_full)
        if restored == "whole":
            assert restore(other, state) == len(state)
        else:
            assert llama_cpp.llama_state_seq_set_data(other.ctx, of_sequence, size, 0) == size
        other.n_tokens = 517
        np.testing.assert_array_equal(read(other, following, 50), expected)
        other.close()


@pytest.mark.parametrize(("place", "value"), [(3, 4), (255, 256), (-1, 255), (-1, 257), (-2, 257)])
def test_cells_of_a_sliding_window_that_cannot_be_are_refused(tiny: Callable[[str], Path], place: int, value: int) -> None:
    """Out of order, beyond the cache, fewer than their rows, more than there are, and a next one beyond the end."""
    llm = merged_llama(tiny("gemma2"), swa_full=False)
    state = state_of(llm)
    places = np.arange(256, dtype=np.uint32).tobytes()  # a window of 128, and a batch, rounded up; all are in use
    assert state.count(places) == 1
    start = state.index(places) + 4 * place  # before them: where the next token goes, and how many they are
    damaged = state[:start] + value.to_bytes(4, sys.byteorder) + state[start + 4 :]
    assert restore(llm, damaged) == 0
    assert llm.asymkv_stats().tokens == 0
    assert restore(llm, state) == len(state)
    assert llm.asymkv_stats().tokens == 300
    llm.close()


def test_one_sequence_is_saved_and_restored_as_well(tiny: Callable[[str], Path]) -> None:
    llm = merged_llama(tiny("llama"))
    size = llama_cpp.llama_state_seq_get_size(llm.ctx, 0)
    buffer = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(llm.ctx, buffer, size, 0) == size
    following = random_tokens(100, seed=1)[1:]
    expected = read(llm, following, 33)
    assert llama_cpp.llama_state_seq_set_data(llm.ctx, buffer, size, 0) == size
    llm.n_tokens = 300
    np.testing.assert_array_equal(read(llm, following, 33), expected)
    llm.close()


@pytest.mark.parametrize("change", [{"per_head": False}, {"observe": 16}])
def test_a_state_saved_with_other_settings_is_refused(tiny: Callable[[str], Path], change: dict[str, Any]) -> None:
    llm = merged_llama(tiny("llama"))
    state = llm.save_state()
    llm.close()
    other = Llama(str(tiny("llama")), asymkv={**CONFIG, **change}, **settings())
    with pytest.raises(RuntimeError):
        other.load_state(state)
    other.close()


def test_a_state_of_a_stock_cache_and_a_merged_one_do_not_mix(tiny: Callable[[str], Path]) -> None:
    merged = merged_llama(tiny("llama"))
    stock = Llama(str(tiny("llama")), **settings())
    read(stock, random_tokens(100), 64)
    assert restore(stock, state_of(merged)) == 0
    assert restore(merged, state_of(stock)) == 0
    merged.close()
    stock.close()


def test_a_state_of_an_older_version_is_refused_with_a_remedy(tiny: Callable[[str], Path]) -> None:
    llm = merged_llama(tiny("llama"))
    state = state_of(llm)
    magic = b"ASMK"[::-1] if sys.byteorder == "big" else b"ASMK"
    place = state.index(magic)
    version = int.from_bytes(state[place + 4 : place + 8], sys.byteorder)
    older = state[: place + 4] + (version - 1).to_bytes(4, sys.byteorder) + state[place + 8 :]
    lines = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def collect(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        lines.append(text.decode(errors="replace"))

    previous, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(previous), ctypes.byref(data))
    llama_cpp.llama_log_set(collect, None)
    try:
        assert restore(llm, older) == 0
    finally:
        llama_cpp.llama_log_set(previous, data)
    sentence = (
        f"the state has version {version - 1} of the merged cache's format, and this library reads {version}: "
        "read the text again, or load the state with the library that saved it"
    )
    assert sentence in "".join(lines)
    assert restore(llm, state) == len(state)
    llm.close()


def test_damaged_states_are_refused_and_the_process_lives(tiny: Callable[[str], Path]) -> None:
    llm = merged_llama(tiny("llama"))
    state = state_of(llm)
    for length in (0, 4, 100, len(state) // 2, len(state) - 1):
        assert restore(llm, state[:length]) == 0
    llm.reset()
    llm._ctx.kv_cache_clear()
    assert np.isfinite(read(llm, random_tokens(100), 64)).all()
    llm.close()


def test_a_stock_build_refuses_a_merged_state(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    llm = merged_llama(tiny("llama"))
    (tmp_path / "state").write_bytes(state_of(llm))
    llm.close()
    script = f"""
import ctypes, llama_cpp
llm = llama_cpp.Llama({str(tiny("llama"))!r}, n_ctx=1024, n_threads=1, flash_attn=True, verbose=False)
state = open({str(tmp_path / "state")!r}, "rb").read()
buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
assert llama_cpp.llama_state_set_data(llm.ctx, buffer, len(state)) == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_state_of_fewer_sinks_keeps_its_merged_slots_merged(tiny: Callable[[str], Path]) -> None:
    """Loaded into a context with more sinks, a cut inside what was merged stays refused after the next compression."""
    llm = merged_llama(tiny("llama"))
    state = llm.save_state()
    llm.close()
    other = Llama(str(tiny("llama")), asymkv={**CONFIG, "sinks": 12}, **settings())
    other.load_state(state)
    read(other, random_tokens(60, seed=1), 60)
    other.asymkv_compress(100)
    memory = llama_cpp.llama_get_memory(other.ctx)
    for cut in (5, 10, 40, 200):
        assert not llama_cpp.llama_memory_seq_rm(memory, 0, cut, -1)
    for head in range(2):
        assert int(other.asymkv_slots(0, head)["cardinality"].sum()) + other.asymkv_lost(0, head) == 360
    other.close()


@pytest.mark.parametrize("model", ["llama", "gemma2", "lfm2"])
def test_a_load_that_fails_leaves_an_empty_and_usable_context(tiny: Callable[[str], Path], model: str) -> None:
    llm = merged_llama(tiny(model))
    state = state_of(llm)
    llm.close()
    other = Llama(str(tiny(model)), asymkv=CONFIG, **settings())
    read(other, random_tokens(90, seed=2), 64)
    for length in (len(state) - 100, len(state) - 5000, 200):
        assert restore(other, state[:length]) == 0
        other.n_tokens = 0
        logits = read(other, random_tokens(40, seed=3), 40)
        assert other.asymkv_stats().tokens == 40
        fresh = Llama(str(tiny(model)), asymkv=CONFIG, **settings())
        np.testing.assert_allclose(logits, read(fresh, random_tokens(40, seed=3), 40), atol=1e-3)
        fresh.close()
    other.close()


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "stock"])
@pytest.mark.parametrize("model", ["llama", "gemma2", "lfm2"])
def test_a_load_that_fails_leaves_nothing_in_any_part_of_the_cache(
    tiny: Callable[[str], Path], model: str, merged: bool
) -> None:
    """Upstream leaves the old text in one of two caches, or the new one: global and sliding, attention and recurrent layers."""
    config = CONFIG if merged else None
    llm, fresh = (Llama(str(tiny(model)), asymkv=config, **settings()) for _ in range(2))
    read(llm, random_tokens(300), 64)
    state, nothing = state_of(llm), len(state_of(fresh))  # bytes: what each part holds takes some
    cuts = [len(state) * part // 23 for part in range(1, 23)]
    for length in (40, 60, 100, *cuts, len(state) - 1):
        assert restore(llm, state) == len(state)
        assert restore(llm, state[:length]) == 0
        assert len(state_of(llm)) == nothing, f"after {length} of {len(state)} bytes"
    llm.close()
    fresh.close()


def test_a_state_whose_parts_end_at_different_positions_is_refused(tiny: Callable[[str], Path]) -> None:
    """The next token would go where another one is."""
    llm = merged_llama(tiny("lfm2"))
    state = state_of(llm)
    cell = struct.pack("<IiIi", 1, 299, 1, 0)  # of the recurrent layers: one cell, its position, one sequence, number 0
    assert state.count(cell) == 1
    for position in (250, 298, 300):
        assert restore(llm, state.replace(cell, struct.pack("<IiIi", 1, position, 1, 0))) == 0
        assert llm.asymkv_stats().tokens == 0
    assert restore(llm, state) == len(state)
    llm.close()


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "stock"])
def test_a_file_that_goes_on_behind_its_state_is_refused_and_leaves_nothing(
    tiny: Callable[[str], Path], tmp_path: Path, merged: bool
) -> None:
    llm, fresh = (Llama(str(tiny("llama")), asymkv=CONFIG if merged else None, **settings()) for _ in range(2))
    read(llm, random_tokens(100), 64)
    path, tokens, count = tmp_path / "state", (llama_cpp.llama_token * 1)(5), ctypes.c_size_t()
    assert llama_cpp.llama_state_save_file(llm.ctx, str(path).encode(), tokens, 1)
    assert llama_cpp.llama_state_load_file(llm.ctx, str(path).encode(), tokens, 1, ctypes.byref(count))
    path.write_bytes(path.read_bytes() + b"more")
    assert not llama_cpp.llama_state_load_file(llm.ctx, str(path).encode(), tokens, 1, ctypes.byref(count))
    assert len(state_of(llm)) == len(state_of(fresh))
    llm.close()
    fresh.close()


# of a state of one sequence of a stock cache of one layer: magic, sequence, streams, cells, then of each cell position,
# number of sequences, sequence
@pytest.mark.parametrize(
    ("place", "number"), [(12, 0xFFFFFFFF), (12, 1025), (16, 0xFFFFFFFF), (16, 0xFFFFFFFE), (16, 0x7FFFFFFF), (20, 0), (20, 2)]
)
def test_numbers_that_cannot_be_are_refused_by_a_stock_cache(tiny: Callable[[str], Path], place: int, number: int) -> None:
    """Upstream takes positions as they come, and an assertion, or an overflow, ends the process then or later."""
    llm = Llama(str(tiny("llama")), asymkv=None, **settings())
    read(llm, random_tokens(100), 64)
    size = llama_cpp.llama_state_seq_get_size(llm.ctx, 0)
    buffer = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(llm.ctx, buffer, size, 0) == size
    assert llama_cpp.llama_state_seq_set_data(llm.ctx, buffer, size, 0) == size
    buffer[place : place + 4] = list(number.to_bytes(4, "little"))
    assert llama_cpp.llama_state_seq_set_data(llm.ctx, buffer, size, 0) == 0
    assert llama_cpp.llama_memory_seq_pos_max(llama_cpp.llama_get_memory(llm.ctx), 0) == -1
    llm.close()


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "stock"])
@pytest.mark.parametrize(
    ("place", "number"), [(0, 0xFFFFFFFF), (17, 0xFFFFFFFF), (17, 0xFFFFFFFE), (17, 0x7FFFFFFF), (21, 0), (21, 2), (25, 1)]
)
def test_numbers_that_cannot_be_are_refused_in_whole_states(
    tiny: Callable[[str], Path], merged: bool, place: int, number: int
) -> None:
    """The length of the architecture's name, and of the first cell its position, number of sequences, and sequence."""
    llm = Llama(str(tiny("llama")), asymkv=CONFIG if merged else None, **settings())
    read(llm, random_tokens(100), 64)
    state = bytearray(state_of(llm))
    if place > 0 and merged:
        place += 24  # our header
    state[place : place + 4] = number.to_bytes(4, "little")
    assert restore(llm, bytes(state)) == 0
    llm.close()


@pytest.mark.skipif(sys.platform == "win32", reason="asks POSIX for the most memory that there was")
def test_a_length_that_cannot_be_takes_no_memory(tiny: Callable[[str], Path]) -> None:
    """Upstream takes 4 GiB for the architecture's name."""
    script = f"""
import asymkv_gguf, ctypes, llama_cpp, resource
llm = llama_cpp.Llama({str(tiny("llama"))!r}, n_ctx=1024, n_threads=1, verbose=False)
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = most()
state = (ctypes.c_uint8 * 1000)(*([0xFF] * 1000))
assert llama_cpp.llama_state_set_data(llm.ctx, state, 1000) == 0
assert most() < 2 * before, (before, most())
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_refused_load_leaves_a_context_that_answers_like_a_fresh_one(tiny: Callable[[str], Path]) -> None:
    """llama_cpp counts the state's tokens before it knows whether they are there; prefix reuse would then trust them."""
    llm = merged_llama(tiny("llama"))
    state = llm.save_state()
    llm.close()
    other = Llama(str(tiny("llama")), asymkv={**CONFIG, "per_head": False}, **settings())
    fresh = Llama(str(tiny("llama")), asymkv={**CONFIG, "per_head": False}, **settings())
    with pytest.raises(AsymKVError, match="saved with another model, cache type"):
        other.load_state(state)
    assert (other.n_tokens, other.asymkv_stats().tokens) == (0, 0)
    prompt = random_tokens(300)
    assert next(other.generate(prompt, temp=0.0)) == next(fresh.generate(prompt, temp=0.0))
    other.close()
    fresh.close()
