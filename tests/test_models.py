"""Which models can be merged, and what the others are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from runs import random_tokens, read, settings
from tiny_models import REFUSED, Builder

from asymkv_gguf import AsymKVConfig, Llama
from asymkv_gguf.errors import UnsupportedError
from asymkv_gguf.llama import _api


@pytest.mark.parametrize("model", list(REFUSED))
def test_a_model_that_cannot_be_merged_is_refused_with_its_reason(tiny: Callable[[str], Path], model: str) -> None:
    with pytest.raises(UnsupportedError, match=REFUSED[model][1]) as caught:
        Llama(str(tiny(model)), asymkv=True, **settings())
    assert "\n" not in str(caught.value)
    assert model in str(caught.value)


@pytest.mark.parametrize("model", [name for name in REFUSED if name != "bert"])
def test_a_refused_model_has_the_stock_cache_when_asymkv_is_off(tiny: Callable[[str], Path], model: str) -> None:
    llm = Llama(str(tiny(model)), **settings(flash_attn=False))
    assert np.isfinite(read(llm, random_tokens(50), 25)).all()
    llm.close()


def test_a_quantized_cache_of_heads_that_share_blocks_is_refused_per_head(tmp_path: Path) -> None:
    path = tmp_path / "head8.gguf"
    b = Builder(path, "llama", d=32, n_layer=1, n_head=4, n_head_kv=4)
    b.writer.add_layer_norm_rms_eps(1e-5)
    b.embeddings()
    b.attention(0, 4)
    b.feed_forward(0)
    b.close()
    with pytest.raises(UnsupportedError, match="heads of 8 channels"):
        Llama(str(path), asymkv=True, **{**settings(flash_attn=False), "type_k": 8, "type_v": 1})
    with pytest.raises(UnsupportedError, match="does not divide"):  # llama.cpp's own rule with flash attention
        Llama(str(path), **settings("q8_0"))
    per_layer = {"budget": 128, "recent": 40, "per_head": False}
    llm = Llama(str(path), asymkv=per_layer, **{**settings(flash_attn=False), "type_k": 8, "type_v": 1})
    assert np.isfinite(read(llm, random_tokens(400), 64)).all()
    assert llm.asymkv_stats().compressions > 0
    llm.close()


def test_the_papers_preset_runs_as_the_paper_does(tiny: Callable[[str], Path]) -> None:
    """Per layer, clipped at 5, chunks of 512 that score and are protected, 32 sinks."""
    config = AsymKVConfig.paper()
    llm = Llama(str(tiny("llama")), asymkv=config, **settings(n_ctx=4096, n_batch=512))
    read(llm, random_tokens(3500), 512)
    stats = llm.asymkv_stats()
    assert (stats.groups, stats.budget, stats.capacity) == (1, 2080, 2816)
    assert stats.compressions >= 1
    assert stats.evictions == 0
    for layer in range(stats.layers):
        slots = llm.asymkv_slots(layer)
        assert slots["cardinality"].max() <= 5
        assert np.all(slots["cardinality"][:32] == 1)
        assert np.all(slots["cardinality"][-512:] == 1)
        assert int(slots["cardinality"].sum()) + llm.asymkv_lost(layer) == 3500
    llm.close()


def test_a_merged_cache_with_m_rope_reads_text_and_refuses_embeddings(tiny: Callable[[str], Path]) -> None:
    """An image's positions have several components, by which a key cannot be moved as text's can. Nothing is lost."""
    model = str(tiny("qwen2vl"))
    llm = Llama(model, asymkv={"budget": 128, "recent": 40}, **settings())
    read(llm, random_tokens(400), 64)
    before = llm.asymkv_stats()
    assert before.compressions > 0
    batch = llama_cpp.llama_batch_init(4, llm.n_embd(), 1)  # of one, with room for a position's four components
    try:
        batch.n_tokens, batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 1, 0, 1
        for component in range(4):
            batch.pos[component] = 400
        np.ctypeslib.as_array(batch.embd, (llm.n_embd(),))[:] = 1
        assert llama_cpp.llama_decode(llm.ctx, batch) == 1
    finally:
        llama_cpp.llama_batch_free(batch)
    assert _api.last_error() == (
        "a merged cache of a model with M-RoPE reads text only, and this batch has embeddings (of an image or sound): "
        "open the model without asymkv for it"
    )
    assert llm.asymkv_stats() == before
    assert np.isfinite(read(llm, random_tokens(20), 20)).all()
    llm.close()
