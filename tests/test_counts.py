"""What a merged cache costs, in counts: compressions, graph reservations, bytes. Times are for benchmarks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from tiny_models import Builder

from asymkv_gguf import AsymKVConfig, Llama
from asymkv_gguf.cache_types import KV_TYPES

CONFIG = AsymKVConfig(budget=256, sinks=4, recent=32, observe=16, chunk=64)
CAPACITY, N_BATCH = 512, 64


@pytest.fixture
def llm(tiny: Callable[[str], Path]) -> Iterator[Llama]:
    llm = Llama(str(tiny("llama")), asymkv=CONFIG, n_ctx=4096, n_batch=N_BATCH, n_threads=1, verbose=False)
    yield llm
    llm.close()


def tokens(n: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(0).integers(3, 259, n)]


def test_compressions_come_once_for_the_slots_that_one_frees(llm: Llama) -> None:
    assert llm.asymkv_stats().capacity == CAPACITY
    llm.eval(tokens(4096 - N_BATCH))
    freed = CAPACITY - CONFIG.budget
    assert llm.asymkv_stats().compressions == -(-(4096 - N_BATCH - CAPACITY) // freed)


def test_compressions_in_prefill_and_decode_reserve_no_graph(llm: Llama) -> None:
    """The worst case is reserved when the context is made, with merged slots."""
    lines = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def collect(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        lines.append(text.decode(errors="replace"))

    llm.eval(tokens(CAPACITY - N_BATCH))
    previous, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(previous), ctypes.byref(data))
    llama_cpp.llama_log_set(collect, None)
    try:
        llm.eval(tokens(3 * CAPACITY))
        for token in tokens(CAPACITY):
            llm.eval([token])
    finally:
        llama_cpp.llama_log_set(previous, data)
    assert llm.asymkv_stats().compressions >= 6
    assert any("compress" in line for line in lines)  # debug lines do arrive
    assert not any("reserv" in line for line in lines)


def test_the_cache_is_its_slots_and_tables_are_a_few_bytes_for_each(llm: Llama) -> None:
    stats = llm.asymkv_stats()
    model = llm.metadata
    n_layer, n_head = int(model["llama.block_count"]), int(model["llama.attention.head_count"])
    n_kv, d = int(model["llama.attention.head_count_kv"]), int(model["llama.embedding_length"]) // n_head
    assert stats.kv_bytes == CAPACITY * n_layer * n_kv * d * 2 * 2  # keys and values of 16 bits
    ring = CONFIG.observe * n_layer * n_head * d * 34 // 32  # q8_0
    log_card = CAPACITY * n_layer * n_kv * 2  # ln(cardinality) in 16 bits
    assert stats.table_bytes == ring + log_card
    llm.eval(tokens(4000))
    slots = CONFIG.budget * n_layer * n_kv  # of which something is to be told
    assert 0 < llm.asymkv_stats().table_bytes - ring - log_card <= 4 * slots
    llm.reset()
    llm.eval(tokens(1))
    assert llm.asymkv_stats().table_bytes == ring + log_card


@pytest.mark.parametrize(
    ("head", "cache_type", "bytes_of_32"), [(64, "f16", 34), (64, "q8_0", 34), (48, "f16", 64), (64, "f32", 128)]
)
def test_observed_queries_take_8_bits_where_heads_are_whole_blocks(
    tmp_path: Path, head: int, cache_type: str, bytes_of_32: int
) -> None:
    write_head(tmp_path / "head.gguf", head)
    number = KV_TYPES[cache_type]
    llm = Llama(str(tmp_path / "head.gguf"), asymkv=CONFIG, n_ctx=1024, type_k=number, type_v=number, verbose=False)
    assert llm.asymkv_stats().table_bytes == CAPACITY * 2 + CONFIG.observe * 4 * head * bytes_of_32 // 32
    llm.eval(tokens(600))
    assert llm.asymkv_stats().compressions > 0
    llm.close()


def write_head(path: Path, head: int) -> None:
    """One layer and one KV head, for which four query heads ask."""
    builder = Builder(path, "llama", d=4 * head, n_layer=1, n_head=4, n_head_kv=1)
    builder.writer.add_layer_norm_rms_eps(1e-5)
    builder.writer.add_rope_freq_base(500000.0)
    builder.embeddings()
    builder.attention(0, 1)
    builder.feed_forward(0)
    builder.close()


@pytest.mark.parametrize("config", [{}, {"evict": False}, {"score": "h2o", "evict": True}], ids=str)
def test_keys_values_and_tables_take_three_percent_more_than_the_slots(tmp_path: Path, config: dict[str, Any]) -> None:
    """Heads and settings as with Llama-3.2-1B: of it this is one KV head of one layer, and a budget of 2,048 slots."""
    write_head(tmp_path / "head.gguf", 64)
    llm = Llama(str(tmp_path / "head.gguf"), asymkv=config or True, n_ctx=1 << 15, n_threads=2, verbose=False)
    for _ in range(5):
        llm.eval(tokens(3000))
        stats = llm.asymkv_stats()
        slot_bytes = 2 * 64 * 2
        assert stats.capacity == 2560
        assert stats.kv_bytes + stats.table_bytes <= 1.03 * stats.capacity * slot_bytes
    assert stats.compressions >= 20
    llm.close()
